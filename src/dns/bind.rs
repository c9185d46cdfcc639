//! Sockets: opened, or taken over from another process that had them open.

use crate::{server::BindError, udp_sys};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};
use tokio::net::{TcpListener, UdpSocket};

/// Socket buffers: a burst of some ten thousand queries waits instead of being lost.
const SOCKET_BUFFER: usize = 4 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// With port 0, TCP and UDP must agree on a port that the kernel chose for one of them.
const PORT_TRIES: usize = 32;

/// A server's sockets while it starts.
pub(crate) struct Sockets<'a> {
    inherited: &'a mut Vec<(String, OwnedFd)>,
    /// Each once more, by its name.
    pub(crate) copies: Vec<(String, OwnedFd)>,
}

/// The address with its port, and what is bound to it.
type Bound = (SocketAddr, TcpListener, Vec<Socket>);

impl<'a> Sockets<'a> {
    pub(crate) fn new(inherited: &'a mut Vec<(String, OwnedFd)>) -> Sockets<'a> {
        Sockets { inherited, copies: Vec::new() }
    }

    fn take(&mut self, name: &str) -> Option<Socket> {
        let at = self.inherited.iter().position(|(n, _)| n == name)?;
        Some(self.inherited.remove(at).1.into())
    }

    fn keep(&mut self, name: String, socket: &impl AsFd) -> io::Result<()> {
        self.copies.push((name, socket.as_fd().try_clone_to_owned()?));
        Ok(())
    }

    /// A listener of one kind (`tcp`, `tls`, `https`).
    pub(crate) fn listen(&mut self, kind: &str, addr: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
        let name = format!("dns {kind} {addr}");
        let socket = match self.take(&name) {
            Some(socket) => socket,
            None => listen(addr)?,
        };
        self.keep(name, &socket)?;
        let listener = TcpListener::from_std(socket.into())?;
        Ok((listener.local_addr()?, listener))
    }

    /// The socket of DNS over QUIC.
    pub(crate) fn quic(&mut self, addr: SocketAddr) -> io::Result<(SocketAddr, UdpSocket)> {
        let name = format!("dns quic {addr}");
        let socket = match self.take(&name) {
            Some(socket) => socket,
            None => {
                let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
                if addr.is_ipv6() {
                    socket.set_only_v6(true)?;
                }
                socket.set_nonblocking(true)?;
                socket.bind(&addr.into())?;
                socket
            }
        };
        self.keep(name, &socket)?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok((socket.local_addr()?, socket))
    }

    /// TCP and all UDP sockets of an address: one UDP socket per worker, and each that another process had.
    pub(crate) fn bind(&mut self, addr: SocketAddr, workers: usize) -> Result<Bound, BindError> {
        let error = |transport| move |source| BindError::Address { addr, transport, source };
        let name = format!("dns udp {addr}");
        let mut sockets: Vec<Socket> = std::iter::from_fn(|| self.take(&name)).collect();
        let mut tries = if addr.port() == 0 { PORT_TRIES } else { 1 };
        let (real, listener) = loop {
            let copies = self.copies.len();
            let (real, listener) = self.listen("tcp", addr).map_err(error("TCP"))?;
            tries -= 1;
            match open_udp(real, workers, &mut sockets) {
                Ok(()) => break (real, listener),
                Err(_) if tries > 0 => self.copies.truncate(copies),
                Err(e) => return Err(error("UDP")(e)),
            }
        };
        for socket in &sockets {
            self.keep(name.clone(), socket).map_err(error("UDP"))?;
        }
        Ok((real, listener, sockets))
    }
}

/// Opens as many as are missing.
fn open_udp(addr: SocketAddr, workers: usize, sockets: &mut Vec<Socket>) -> io::Result<()> {
    if sockets.is_empty() {
        // Alone first: SO_REUSEPORT would let a second program of the same user share the port unseen.
        drop(bind_udp(addr, false)?);
    }
    let missing = (sockets.len()..workers).map(|_| bind_udp(addr, true));
    let more = missing.collect::<io::Result<Vec<_>>>()?;
    sockets.extend(more);
    Ok(())
}

fn listen(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?; // connections of the last run that still wait to end do not matter
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn bind_udp(addr: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    udp_sys::set_options(&socket, &addr)?;
    socket.bind(&SockAddr::from(addr))?;
    Ok(socket)
}
