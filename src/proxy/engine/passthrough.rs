//! L4 by name: the client's TLS greeting is read, not answered, and everything goes to where the name in it leads.

use super::{
    View,
    accept::Client,
    buffer::Buffer,
    relay::{self, Ended, Sampled},
    timer::Side,
    wire::{Trouble, Wire},
};
use crate::counters;
use rustls::server::Acceptor;
use std::{net::IpAddr, rc::Rc};
use zonekeeper_core::route::RequestHead;

/// Longest greeting that is read, in bytes. With post-quantum keys it has 2 KB.
const MAX_HELLO: usize = 16 * 1024;
/// The alert for a name that leads nowhere: fatal, unrecognized_name (RFC 6066 §3).
const UNKNOWN: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// What a route can ask of a connection that is not decrypted.
struct Greeting {
    name: String,
    source: IpAddr,
}

impl RequestHead for Greeting {
    fn method(&self) -> &str {
        ""
    }
    fn host(&self) -> &str {
        &self.name
    }
    fn target(&self) -> &str {
        ""
    }
    fn source(&self) -> Option<IpAddr> {
        Some(self.source)
    }
    fn any_header(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(client: Client, wire: Wire, view: Rc<View>, index: usize) {
    let listener = view.listener(index);
    let refused = &listener.cells.of(client.worker.index).refused;
    let sampled = Sampled::begin(&client, &view, index);
    client.timer.arm(Side::Client, listener.table.header_timeout_ms);
    let mut buffer = Buffer::default();
    let Ok(name) = read_name(&client, &wire, &mut buffer).await else {
        counters::add(refused, 1);
        wire.reset_on_close();
        if let Some(sampled) = sampled {
            sampled.log(&client, &wire, Ended::NoGreeting, (None, None));
        }
        return;
    };
    client.timer.disarm(Side::Client);
    let greeting = Greeting { name: name.unwrap_or_default(), source: client.peer.ip() };
    match listener.table.match_route(&greeting) {
        Some(route) => {
            Box::pin(relay::serve_route(client, wire, (view, index, route), buffer, sampled)).await
        }
        None => {
            counters::add(refused, 1);
            let _ = wire.write_all(UNKNOWN, &client.timer, Side::Client).await;
            if let Some(sampled) = sampled {
                sampled.log(&client, &wire, Ended::UnknownName, (None, None));
            }
        }
    }
}

/// The name that the client asks for; none when it names none.
async fn read_name(client: &Client, wire: &Wire, buffer: &mut Buffer) -> Result<Option<String>, Trouble> {
    let mut acceptor = Box::new(Acceptor::default());
    let mut seen = 0;
    loop {
        wire.fill(buffer, &client.timer, Side::Client).await?;
        while seen < buffer.bytes().len() {
            let mut new = &buffer.bytes()[seen..];
            seen += match acceptor.read_tls(&mut new) {
                Ok(n) if n > 0 => n,
                _ => return Err(Trouble::Io),
            };
            match acceptor.accept() {
                Ok(Some(hello)) => return Ok(hello.client_hello().server_name().map(str::to_string)),
                Ok(None) => {}
                Err(_) => return Err(Trouble::Io), // no TLS
            }
        }
        if seen > MAX_HELLO {
            return Err(Trouble::Io);
        }
    }
}
