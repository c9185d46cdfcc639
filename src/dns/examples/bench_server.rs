//! Serves zone files from flags alone, for measurements: `bench_server ADDRESS WORKERS ORIGIN=FILE...`.

use arc_swap::ArcSwap;
use std::{error::Error, path::Path, sync::Arc, time::Instant};
use zonekeeper_core::{
    State, answer::DnsTable, model::ZoneOwner, name::Name, publish::Published, route::ProxyTable, zone::Zone,
};
use zonekeeper_dns::{DnsConfig, DnsFlags, DnsServer, zonefile};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addr, workers, zones @ ..] = args.as_slice() else {
        return Err("usage: bench_server ADDRESS WORKERS ORIGIN=FILE...".into());
    };
    let mut state = State::default();
    for (origin, file) in zones.iter().filter_map(|z| z.split_once('=')) {
        let (origin, started) = (Name::parse(origin)?, Instant::now());
        let mut zone = Zone::new(origin.clone(), ZoneOwner::File);
        for set in zonefile::load(Path::new(file), &origin)? {
            zone.put(set)?;
        }
        zone.advance_serial();
        let (names, bytes) = (zone.names(), zone.bytes());
        tracing::info!("{origin} loaded");
        let _ = std::fs::write(
            format!("{file}.loaded"),
            format!("{names} names, {bytes} bytes, {:?}\n", started.elapsed()),
        );
        state.zones.insert(origin, Arc::new(zone));
    }
    let dns = Arc::new(DnsTable::build(&state));
    let published = Published {
        generation: state.generation,
        state: Arc::new(state),
        dns,
        proxy: Arc::new(ProxyTable::default()),
    };
    let config = DnsConfig { addrs: vec![addr.parse()?], workers: workers.parse()?, ..DnsConfig::default() };
    let _server =
        DnsServer::start(config, Arc::new(ArcSwap::from_pointee(published)), Arc::new(DnsFlags::default()))?;
    std::future::pending::<()>().await;
    Ok(())
}
