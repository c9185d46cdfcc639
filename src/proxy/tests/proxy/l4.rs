//! L4 listeners.

use crate::support::*;
use std::{io::ErrorKind, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use zonekeeper_core::model::{Balance, Protocol};

/// Reads to the end, then answers with what it got.
fn echo_at_end() -> Server {
    Server::with(any(), |mut stream, _| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    })
}

async fn refused(addr: SocketAddr) -> bool {
    matches!(TcpStream::connect(addr).await, Err(e) if e.kind() == ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let backend = echo_at_end();
    let world = World::tcp(&[backend.addr]);
    let mut stream = TcpStream::connect(world.addr("web")).await.unwrap();
    let sent: Vec<u8> = (0..2_000_000u32).map(|i| i as u8).collect();
    let (mut read, mut write) = stream.split();
    write.write_all(&sent).await.unwrap();
    write.shutdown().await.unwrap();
    let mut got = Vec::new();
    read.read_to_end(&mut got).await.unwrap();
    assert!(got == sent);
    eventually("it is counted", async || world.proxy.counters().listeners[0].1.bytes_in == 2_000_000).await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let backend = Server::with(any(), |mut stream, _| async move {
        stream.write_all(b"220 hello").await.unwrap();
    });
    let world = World::tcp(&[backend.addr]);
    let mut text = String::new();
    TcpStream::connect(world.addr("web")).await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "220 hello");
}

#[tokio::test]
async fn a_connection_is_taken_up_with_its_first_bytes_where_clients_send_first() {
    let backend = echo_at_end();
    for client_first in [true, false] {
        let mut state = state(Protocol::Tcp, &[backend.addr]);
        edit_listener(&mut state, |l| l.client_first = client_first);
        let world = World::start(state);
        let taken_up = || world.proxy.counters().listeners[0].1.connections;
        let mut stream = TcpStream::connect(world.addr("web")).await.unwrap();
        if client_first {
            assert_eq!(taken_up(), 0, "nothing was sent yet");
        } else {
            eventually("it is taken up", async || taken_up() == 1).await;
        }
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), taken_up()), ("hello", 1));
    }
}

#[tokio::test]
async fn a_refused_backend_is_passed_over_and_a_reset_is_passed_on() {
    let backend = Server::with(any(), |mut stream, _| async move {
        let _ = stream.read(&mut [0; 1]).await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let world = World::tcp(&[dead(), backend.addr]);
    let mut stream = TcpStream::connect(world.addr("web")).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let end = stream.read(&mut [0; 1]).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn how_long_a_connection_takes_is_what_response_time_goes_by() {
    let backend = echo_at_end();
    let nobody = dead();
    let mut state = state(Protocol::Tcp, &[nobody, backend.addr]);
    edit_pool(&mut state, |p| (p.balance, p.eject_ms) = (Balance::ResponseTime, 0));
    let world = World::start(state);
    for _ in 0..2 {
        let mut stream = TcpStream::connect(world.addr("web")).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    let latency = |addr| world.health.get(&pool_id("web"), addr).unwrap().latency_us();
    eventually("both are measured", async || latency(nobody) > 0 && latency(backend.addr) > 0).await;
    assert!(latency(nobody) > 1_000_000 && latency(backend.addr) < 1_000_000, "a failure is never fast");
}

/// The end behind the last bytes goes with them; a cut behind them stays a cut.
#[tokio::test]
async fn bytes_that_end_are_told_from_bytes_that_were_cut() {
    for cut in [false, true] {
        let backend = Server::with(any(), move |mut stream, _| async move {
            let _ = stream.read(&mut [0; 1]).await;
            stream.write_all(b"hello").await.unwrap();
            if cut {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        });
        let world = World::tcp(&[backend.addr]);
        for _ in 0..50 {
            let mut stream = TcpStream::connect(world.addr("web")).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            let mut got = Vec::new();
            let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut got)).await.unwrap();
            match cut {
                false => assert_eq!((end.ok(), got.as_slice()), (Some(5), b"hello".as_slice())),
                true => assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset)),
            }
        }
    }
}

#[tokio::test]
async fn an_empty_pool_refuses_connections_until_a_backend_is_healthy() {
    let backend = Server::with(any(), |mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let world = World::tcp(&[backend.addr]);
    let addr = world.addr("web");
    for _ in 0..3 {
        let mut running = TcpStream::connect(addr).await.unwrap();
        let mut echo = async |text: &[u8]| {
            running.write_all(text).await.unwrap();
            let mut got = vec![0; text.len()];
            running.read_exact(&mut got).await.unwrap();
            assert_eq!(got, text);
        };
        echo(b"it runs").await;
        world.health.set(&pool_id("web"), backend.addr, false);
        eventually("connects are refused", async || refused(addr).await).await;
        assert_eq!(world.addr("web"), addr, "the address stays ours");
        echo(b"what ran goes on").await;
        world.health.set(&pool_id("web"), backend.addr, true);
        eventually("it accepts again", async || TcpStream::connect(addr).await.is_ok()).await;
        echo(b"and on").await;
    }
}

#[tokio::test]
async fn a_dead_backend_makes_its_listener_refuse_for_the_ejection() {
    let at = free();
    let world = World::tcp(&[at]);
    let addr = world.addr("web");
    if let Ok(mut cut) = TcpStream::connect(addr).await {
        assert!(!matches!(cut.read(&mut [0; 1]).await, Ok(n) if n > 0));
    }
    eventually("connects are refused", async || refused(addr).await).await;
    let _backend = Server::start_at("a", at);
    eventually("it accepts again", async || TcpStream::connect(addr).await.is_ok()).await;
}

#[tokio::test]
async fn a_quiet_connection_is_closed() {
    let backend = echo_at_end();
    let mut state = state(Protocol::Tcp, &[backend.addr]);
    edit_listener(&mut state, |l| l.idle_timeout_ms = 200);
    let world = World::start(state);
    let mut stream = TcpStream::connect(world.addr("web")).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert!(!matches!(stream.read(&mut [0; 1]).await, Ok(n) if n > 0));
}
