//! Serves 1,000 static names, weighted services and nearest ones, for measurements: `bench_steered ADDRESS WORKERS`.
//!
//! `h0.plain.example` to `h999` are static, `h0.mixed.example` as well, beside the services `w0.mixed.example` (weighted, 3 to
//! 1) and `n0.mixed.example` (nearest: two networks, then the distance).

use arc_swap::ArcSwap;
use std::{error::Error, path::Path, sync::Arc};
use zonekeeper_core::{
    State,
    answer::DnsTable,
    id::SiteId,
    model::{
        Endpoint, Failback, Family, Location, Nearest, Policy, Quorum, Service, Site, WhenAllDown, ZoneOwner,
    },
    name::Name,
    publish::Published,
    route::ProxyTable,
    state::{Assignment, Basis, Generation, ServiceState},
    time::LogTime,
    zone::Zone,
};
use zonekeeper_dns::{DnsConfig, DnsFlags, DnsServer, zonefile};

const NAMES: usize = 1000;

fn zone(origin: &str) -> Result<Zone, Box<dyn Error>> {
    let mut text = String::from("$TTL 30\n@ SOA ns h 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n");
    for i in 0..NAMES {
        text.push_str(&format!("h{i} A 10.0.{}.{}\n", i / 250, i % 250 + 1));
    }
    let origin = Name::parse(origin)?;
    let mut zone = Zone::new(origin.clone(), ZoneOwner::File);
    for set in zonefile::parse(text.as_bytes(), Path::new("generated"), &origin)? {
        zone.put(set)?;
    }
    zone.advance_serial();
    Ok(zone)
}

fn service(name: String, policy: Policy, sites: &[SiteId]) -> Result<ServiceState, Box<dyn Error>> {
    let endpoint = |n: u8| vec![Endpoint { addr: [192, 0, 2, n].into(), port: 443 }];
    let assignment = Assignment {
        epoch: Generation::default(),
        since: LogTime(0),
        sites: sites.to_vec(),
        basis: Basis::Usable,
    };
    Ok(ServiceState {
        version: 1,
        spec: Service {
            names: vec![Name::parse(&name)?],
            policy,
            endpoints: sites.iter().zip(1..).map(|(s, n)| (s.clone(), endpoint(n))).collect(),
            ttl: 30,
            check: None,
            pool: None,
            min_backends: 0,
            when_all_down: WhenAllDown::FailOpen,
            hold_down_ms: 0,
            hold_down_max_ms: 0,
            failback: Failback::Manual,
            quorum: Quorum::Majority,
            min_answers: 1,
            automation: true,
        },
        health: Default::default(),
        assignment: [(Family::V4, assignment)].into(),
        suspects: Default::default(),
        pinned: None,
        automation: None,
    })
}

fn state() -> Result<State, Box<dyn Error>> {
    let mut state = State::default();
    for origin in ["plain.example", "mixed.example"] {
        state.zones.insert(Name::parse(origin)?, Arc::new(zone(origin)?));
    }
    let sites: [SiteId; 2] = ["fra".parse()?, "iad".parse()?];
    for (site, latitude, longitude) in [(&sites[0], 501_100, 86_800), (&sites[1], 390_400, -774_900)] {
        let location = Some(Location { latitude, longitude });
        state.sites.insert(site.clone(), Arc::new(Site { location, ..Site::default() }));
    }
    let areas = [("10.0.0.0/8", &sites[0]), ("192.168.0.0/16", &sites[1])];
    let areas = areas.map(|(area, site)| Ok::<_, Box<dyn Error>>((area.parse()?, vec![site.clone()])));
    let nearest = Nearest { sites: sites.to_vec(), areas: areas.into_iter().collect::<Result<_, _>>()? };
    for i in 0..NAMES {
        let weights = [(sites[0].clone(), 3), (sites[1].clone(), 1)].into();
        let near = Policy::Nearest(Box::new(nearest.clone()));
        for (letter, policy) in [("w", Policy::Weighted(weights)), ("n", near)] {
            let service = service(format!("{letter}{i}.mixed.example"), policy, &sites)?;
            state.services.insert(format!("{letter}{i}").parse()?, Arc::new(service));
        }
    }
    Ok(state)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addr, workers, databases @ ..] = args.as_slice() else {
        return Err("usage: bench_steered ADDRESS WORKERS [DATABASE.mmdb...]".into());
    };
    let state = state()?;
    let dns = Arc::new(DnsTable::build(&state));
    let published = Published {
        generation: state.generation,
        state: Arc::new(state),
        dns,
        proxy: Arc::new(ProxyTable::default()),
    };
    let flags = DnsFlags::default();
    let paths: Vec<_> = databases.iter().map(Into::into).collect();
    if !paths.is_empty() {
        flags.geo.store(Arc::new(Some(zonekeeper_dns::Geo::open(&paths)?)));
    }
    let config = DnsConfig { addrs: vec![addr.parse()?], workers: workers.parse()?, ..DnsConfig::default() };
    let _server = DnsServer::start(config, Arc::new(ArcSwap::from_pointee(published)), Arc::new(flags))?;
    std::future::pending::<()>().await;
    Ok(())
}
