//! A validating resolver in front of our server: what it takes for secure is proven by our bytes alone.

use crate::{
    common::{Answer, Asker, published, read, state},
    peers::{Peer, resolver},
    questions::{Question, questions},
    sign::{Chain, sign},
    zones::{Rng, Text, family},
};
use arc_swap::ArcSwap;
use std::{path::Path, sync::Arc};
use zonekeeper_dns::{DnsConfig, DnsFlags, DnsServer, Transport};

/// Families of zones, a third of them with each kind of chain.
const FAMILIES: usize = 6;
const QUESTIONS: usize = 2000;
/// Longer chains of aliases are too long for the resolver.
const MAX_ALIASES: usize = 5;

/// Asks a resolver that trusts the zones' keys and has nobody to ask but us.
pub(crate) fn secure(dir: &Path, rng: &mut Rng) {
    let mut zones: Vec<(Text, Chain)> = Vec::new();
    for (k, chain) in (0..FAMILIES).zip([Chain::Nsec, Chain::Nsec3, Chain::OptOut].into_iter().cycle()) {
        for zone in family(rng, k) {
            let Some(signed) = sign(dir, rng, &zone, chain) else { return };
            zones.push((signed, chain));
        }
    }
    let texts: Vec<(&str, &str)> = zones.iter().map(|(z, _)| (z.origin.as_str(), z.text.as_str())).collect();
    let state = state(&texts);
    let mut asker = Asker::of(&state);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = DnsConfig { addrs: vec!["127.0.0.1:0".parse().unwrap()], ..DnsConfig::default() };
    let _entered = runtime.enter();
    let ours = Arc::new(ArcSwap::from_pointee(published(state, 1)));
    let server = DnsServer::start(config, ours, Arc::new(DnsFlags::default())).unwrap();
    let Some(peer) = resolver(dir, &texts, server.local_addrs()[0].port()) else { return };
    let texts: Vec<Text> = zones.iter().map(|(z, _)| z.clone()).collect();
    let opts_out = |q: &Question| {
        let at = zones.iter().filter(|(z, _)| q.name.to_string().ends_with(&format!(".{}", z.origin)));
        at.max_by_key(|(z, _)| z.origin.len()).is_none_or(|(_, c)| *c == Chain::OptOut)
    };
    let asked = questions(rng, &texts, QUESTIONS);
    // RFC 4035 §3.1.4.1: whether a zone has a DS the zone itself cannot prove, and no parent is there to tell.
    let asked: Vec<&Question> =
        asked.iter().filter(|q| q.rtype != 43 && can_be_secure(&mut asker, q)).collect();
    let secure = judge(&peer, &asked, &mut asker, opts_out);
    println!("{} answers validated, {secure} of them secure", asked.len());
    assert!(
        asked.len() > QUESTIONS / 8 && secure > asked.len() / 2,
        "most questions are about what is signed"
    );
}

/// Counts the secure answers, and fails for each that is not what it should be.
fn judge(peer: &Peer, asked: &[&Question], asker: &mut Asker, opts_out: impl Fn(&Question) -> bool) -> usize {
    let wires: Vec<Vec<u8>> = asked.iter().map(|q| [&[0, 0, 1], &q.wire[3..]].concat()).collect(); // RD
    let (mut secure, mut wrong) = (0, Vec::new());
    for (q, theirs) in asked.iter().zip(peer.ask(&wires, true)) {
        let ours = read(&asker.raw(Transport::Tcp, &q.wire).unwrap());
        secure += usize::from(theirs.ad);
        let across = ours.answer.iter().any(|r| r.1 == 5);
        // A DNAME at a wildcard that the resolver has kept for a name renames what is below that, and for us it does not:
        // RFC 4592 §4.4 leaves it open.
        let renamed = |a: &Answer| a.answer.iter().any(|r| r.1 == 39);
        if renamed(&theirs) && !renamed(&ours) {
            continue;
        }
        if theirs.rcode != ours.rcode || !(theirs.ad || across || opts_out(q)) {
            wrong.push(format!(
                "{} type {}: rcode {}, ad {}, theirs {theirs:?}, ours {ours:?}",
                q.name, q.rtype, theirs.rcode, theirs.ad
            ));
        }
    }
    wrong.iter().take(10).for_each(|w| println!("{w}"));
    assert!(wrong.is_empty(), "{} answers are bogus or insecure", wrong.len());
    secure
}

/// Whether we have the whole answer: no delegation, no alias out of our zones, nothing that resolvers do not ask for.
fn can_be_secure(asker: &mut Asker, q: &Question) -> bool {
    let a: Answer = read(&asker.raw(Transport::Tcp, &q.wire).unwrap());
    let aliases = a.answer.iter().filter(|r| r.1 == 5).count();
    let end = a.answer.iter().any(|r| r.1 == q.rtype) || a.authority.iter().any(|r| r.1 == 6);
    // Asked for a DNAME, the resolver takes the one above the name for the answer and follows it no further.
    let end = end && !(q.rtype == 39 && aliases > 0);
    let plain = !matches!(q.rtype, 255 | 46) && q.mode.dnssec && aliases <= MAX_ALIASES;
    plain && a.aa && matches!(a.rcode, 0 | 3) && end
}
