//! Many parts under way at once.

use super::{
    cluster::{Cluster, run},
    import,
    support::PATIENCE,
};
use crate::ProposeError;
use zonekeeper_core::{
    Command, Outcome, Proposal,
    model::{Change, ZoneOwner},
    name::Name,
    zone::{RrSet, rtype},
};

const AUTHOR: &str = "import";
const ID: u64 = 7;
const PARTS: u32 = 80;

fn parts(count: u32) -> Vec<Vec<Change>> {
    import::staged(count)
        .filter_map(|command| match command {
            Command::Stage { changes, .. } => Some(changes),
            _ => None,
        })
        .collect()
}

async fn write(cluster: &Cluster, command: Command) {
    let leader = cluster.leader().await;
    let (_, outcome) = cluster.node(leader).propose(Proposal::by(AUTHOR, command)).await.unwrap();
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
}

#[test]
fn parts_arrive_in_order_from_any_node_and_alone() {
    run(async {
        for (nodes, from) in [(1, 1), (3, 1), (3, 2)] {
            let cluster = Cluster::of(nodes).await;
            write(&cluster, import::zone()).await;
            let mut told = Vec::new();
            cluster.node(from).stage(AUTHOR, ID, parts(PARTS), |done| told.push(done)).await.unwrap();
            // an election on a busy machine may make it jump
            assert!(told.is_sorted() && told.last() == Some(&PARTS), "{told:?}");
            write(&cluster, Command::Commit { id: ID, parts: PARTS }).await;
            assert_eq!(import::visible(&cluster.node(1).state()), import::whole(PARTS));
        }
    });
}

#[test]
fn what_leadership_loses_on_its_way_is_sent_again() {
    run(async {
        let cluster = Cluster::of(3).await;
        write(&cluster, import::zone()).await;
        let staging = cluster.node(1).stage(AUTHOR, ID, parts(PARTS), |_| ());
        let moving = async {
            for to in [2, 3, 1, 2] {
                let leader = cluster.leader().await;
                // it may lead already, or have lost it meanwhile
                let _ = cluster.node(leader).transfer_leader(to, PATIENCE).await;
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            }
        };
        let (staged, ()) = tokio::join!(staging, moving);
        staged.unwrap();
        write(&cluster, Command::Commit { id: ID, parts: PARTS }).await;
        let leader = cluster.leader().await;
        assert_eq!(import::visible(&cluster.node(leader).state()), import::whole(PARTS));
    });
}

#[test]
fn parts_of_another_run_are_not_taken_for_ones_own() {
    run(async {
        let cluster = Cluster::of(1).await;
        write(&cluster, import::zone()).await;
        cluster.node(1).stage(AUTHOR, ID, parts(3), |_| ()).await.unwrap();
        let refused = cluster.node(1).stage(AUTHOR, ID, parts(3), |_| ()).await;
        assert!(
            matches!(&refused, Err(ProposeError::Refused(why)) if why.contains("open already")),
            "{refused:?}"
        );
        write(&cluster, Command::Abort { id: ID }).await;
        cluster.node(1).stage(AUTHOR, ID, parts(3), |_| ()).await.unwrap();
    });
}

#[test]
fn a_part_that_the_state_refuses_ends_it_with_the_reason() {
    run(async {
        let cluster = Cluster::of(1).await;
        let origin = Name::parse("example.net").unwrap();
        let put = |name: &str, rtype, rdata: &[u8]| {
            let set = RrSet::new(Name::parse(name).unwrap(), rtype, 60, vec![rdata.into()]).unwrap();
            vec![Change::PutRecords(origin.clone(), vec![set])]
        };
        let mut parts = vec![vec![Change::PutZone(origin.clone(), ZoneOwner::Api)]];
        parts.extend((0..20).map(|n| put(&format!("a{n}.example.net"), rtype::A, &[192, 0, 2, n])));
        parts.insert(12, put("a3.example.net", rtype::CNAME, &[1, b'x', 0]));
        let mut told = 0;
        let refused = cluster.node(1).stage(AUTHOR, ID, parts, |done| told = done).await;
        let Err(ProposeError::Refused(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("a CNAME stands alone"), "{why}");
        assert_eq!(told, 12);
    });
}
