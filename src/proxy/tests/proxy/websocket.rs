//! WebSocket (RFC 6455) through the proxy, with a client and a server that know the protocol: what one sends the other gets,
//! frame by frame, and a close is a close.

#![allow(clippy::result_large_err, reason = "what tungstenite's callback of a handshake returns")]

use crate::support::*;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};
use tungstenite::{
    Error, Message, WebSocket,
    client::IntoClientRequest as _,
    handshake::server::{Request, Response},
    protocol::{
        CloseFrame, WebSocketConfig,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};
use zonekeeper_core::model::Protocol;

/// Larger than any buffer on the way.
const LARGE: usize = 3 << 20;

pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(2 * LARGE)).max_frame_size(Some(2 * LARGE))
}

/// Echoes messages and answers pings; takes the subprotocol `echo`.
pub(crate) fn echo() -> SocketAddr {
    let listener = TcpListener::bind(any()).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let choose = |request: &Request, mut response: Response| {
                    if let Some(asked) = request.headers().get("sec-websocket-protocol") {
                        response.headers_mut().insert("sec-websocket-protocol", asked.clone());
                    }
                    Ok(response)
                };
                let accepted = tungstenite::accept_hdr_with_config(stream, choose, Some(config()));
                let Ok(mut socket) = accepted else { return };
                while let Ok(message) = socket.read() {
                    if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

fn connect(addr: SocketAddr) -> WebSocket<TcpStream> {
    let mut request = format!("ws://{addr}/chat?x=1").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "echo".parse().unwrap());
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (socket, response) =
        tungstenite::client::client_with_config(request, stream, Some(config())).expect("no handshake");
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-protocol"], "echo");
    socket
}

fn there_and_back(socket: &mut WebSocket<impl Read + Write>, message: Message) {
    socket.send(message.clone()).unwrap();
    assert!(socket.read().unwrap() == message, "{} bytes came back otherwise", message.len());
}

/// A whole conversation with [`echo`].
pub(crate) fn talk(mut socket: WebSocket<impl Read + Write>) {
    // Every way in which a length is written (§5.2), and a message that takes many reads.
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, LARGE] {
        there_and_back(&mut socket, Message::text("ä".repeat(len / 2) + &"x".repeat(len % 2)));
        there_and_back(&mut socket, Message::binary((0..len).map(|i| i as u8).collect::<Vec<_>>()));
    }
    // A message in fragments, with a ping between them (§5.4).
    let part = |data: &'static str, opcode, last| {
        Message::Frame(Frame::message(data.as_bytes(), OpCode::Data(opcode), last))
    };
    socket.send(part("one ", Data::Text, false)).unwrap();
    socket.send(Message::Ping("here".into())).unwrap();
    socket.send(part("two ", Data::Continue, false)).unwrap();
    socket.send(part("three", Data::Continue, true)).unwrap();
    let mut got = [socket.read().unwrap(), socket.read().unwrap()];
    got.sort_by_key(Message::is_pong);
    assert_eq!(got, [Message::text("one two three"), Message::Pong("here".into())]);
    // The closing handshake with its code and reason (§5.5.1), and then the end.
    let bye = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    socket.close(Some(bye.clone())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Close(Some(bye)));
    assert!(matches!(socket.read(), Err(Error::ConnectionClosed)), "an orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_end_sends_the_other_gets() {
    let world = World::start(state(Protocol::Http, &[echo()]));
    let addr = world.addr("web");
    let clients: Vec<_> = (0..8).map(|_| tokio::task::spawn_blocking(move || talk(connect(addr)))).collect();
    for client in clients {
        client.await.unwrap();
    }
    let counters = world.proxy.counters();
    assert_eq!((counters.listeners[0].1.requests, counters.listeners[0].1.failed), (8, 0));
    eventually("all tunnels ended", async || world.proxy.counters().listeners[0].1.active == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_a_reset_and_no_close() {
    let listener = TcpListener::bind(any()).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut socket = tungstenite::accept_hdr(stream, |_: &Request, mut response: Response| {
            response.headers_mut().insert("sec-websocket-protocol", "echo".parse().unwrap());
            Ok(response)
        })
        .unwrap();
        let _ = socket.read();
        socket2::SockRef::from(socket.get_ref()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let world = World::start(state(Protocol::Http, &[addr]));
    let addr = world.addr("web");
    let end = tokio::task::spawn_blocking(move || {
        let mut socket = connect(addr);
        socket.send(Message::text("x")).unwrap();
        socket.read()
    });
    let end = end.await.unwrap();
    assert!(matches!(&end, Err(Error::Io(e)) if e.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
}
