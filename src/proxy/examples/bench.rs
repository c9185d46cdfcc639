//! A proxy alone, for load generators: `bench [client-first] HTTP TCP [TLS CERT KEY]` forwards to 127.0.0.1:9001, 9002 and
//! 9003, least connections, one worker, until it is killed. With `client-first` the TCP listener takes a connection up with
//! its first bytes.
//!
//! ```text
//! cargo build --release -p zonekeeper-proxy --example bench
//! bench/proxy.py --sut "zonekeeper:9301:9302:9303:target/release/examples/bench 9301 9302 9303 {cert} {key}"
//! ```

use arc_swap::ArcSwap;
use std::{error::Error, net::SocketAddr, sync::Arc, thread};
use zonekeeper_core::{
    Published, State,
    model::{Backend, Balance, Bind, Listener, Pool, Protocol, Route, TlsFiles},
    route::ProxyTable,
};
use zonekeeper_proxy::{LocalHealth, Proxy, ProxyConfig};

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn pool() -> Pool {
    Pool {
        backends: [9001, 9002, 9003].map(|p| Backend { site: None, addr: local(p), weight: 1 }).into(),
        balance: Balance::LeastConnections,
        check: None,
        connect_timeout_ms: 5000,
        response_timeout_ms: 30_000,
        eject_ms: 1000,
        ..Pool::default()
    }
}

fn listener(port: u16, protocol: Protocol, tls: Option<TlsFiles>) -> Result<Listener, Box<dyn Error>> {
    Ok(Listener {
        binds: vec![Bind { site: None, addr: local(port) }],
        protocol,
        tls: tls.map(Into::into),
        routes: vec![Route::to("web".parse()?)],
        max_connections: 0,
        ..Listener::default()
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let client_first = args.first().is_some_and(|a| a == "client-first");
    args.drain(..usize::from(client_first));
    let mut state = State::default();
    state.pools.insert("web".parse()?, Arc::new(pool()));
    let mut add = |name: &str, listener| -> Result<(), Box<dyn Error>> {
        state.listeners.insert(name.parse()?, Arc::new(listener));
        Ok(())
    };
    match args.as_slice() {
        [http, tcp, rest @ ..] => {
            add("http", listener(http.parse()?, Protocol::Http, None)?)?;
            add("tcp", Listener { client_first, ..listener(tcp.parse()?, Protocol::Tcp, None)? })?;
            if let [tls, cert, key] = rest {
                let files = TlsFiles { cert: cert.clone(), key: key.clone() };
                add("tls", listener(tls.parse()?, Protocol::Http, Some(files))?)?;
            }
        }
        _ => return Err("give the ports: HTTP TCP [TLS CERT KEY]".into()),
    }
    let site = "here".parse()?;
    let published = Published {
        generation: state.generation,
        dns: Arc::default(),
        proxy: Arc::new(ProxyTable::build(&state, &site)),
        state: Arc::new(state),
    };
    let config = ProxyConfig { site, workers: 1 };
    let _proxy = Proxy::start(config, Arc::new(ArcSwap::from_pointee(published)), LocalHealth::new())?;
    loop {
        thread::park();
    }
}
