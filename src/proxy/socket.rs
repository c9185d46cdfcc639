//! Sockets: how listeners are opened, and the socket options that no safe interface offers.
#![allow(unsafe_code)] // TCP_INFO, TCP_DEFER_ACCEPT and IP_PKTINFO have no safe wrapper in our dependencies

use libc::c_int;
use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvFlags, getsockname, recvmsg, sockopt},
};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Socket, Type};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::{self, MaybeUninit},
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

/// Bytes of datagrams that wait, per worker, as far as the system allows (`net.core.rmem_max`).
const DATAGRAMS: usize = 4 << 20;
/// Connections that wait to be accepted, per worker; the system's own limit (`net.core.somaxconn`) applies too.
const BACKLOG: i32 = 4096;

fn open(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?; // connections of an earlier process may still be closing
    if addr.is_ipv6() {
        socket.set_only_v6(true)?; // `[::]` and `0.0.0.0` are two binds
    }
    Ok(socket)
}

/// Reserves an address without listening on it: a connect is refused. It fails when anyone else listens there, which
/// sockets with `SO_REUSEPORT` alone would not notice.
pub(crate) fn reserve(addr: SocketAddr) -> io::Result<Socket> {
    let socket = open(addr)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// The address that a reservation got, its port known.
pub(crate) fn local_addr(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
}

fn datagrams(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Takes a UDP address while nobody else has it: sockets with `SO_REUSEPORT` alone would not notice.
pub(crate) fn reserve_udp(addr: SocketAddr) -> io::Result<Socket> {
    let socket = datagrams(addr)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// One worker's socket for datagrams. At a wildcard it tells to which address of ours each one was sent.
pub(crate) fn receive(addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = datagrams(addr)?;
    socket.set_reuse_port(true)?;
    let _ = socket.set_recv_buffer_size(DATAGRAMS); // a smaller one works, too
    match addr {
        _ if !addr.ip().is_unspecified() => {}
        // Before the bind: the kernel notes the address when a datagram comes, not when it is read.
        SocketAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
        SocketAddr::V6(_) => set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?,
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Whether this machine had no descriptor, memory or port left for a connection.
pub(crate) fn out_of_room(e: &io::Error) -> bool {
    use libc::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let ours = [EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL, EAGAIN];
    e.raw_os_error().is_some_and(|code| ours.contains(&code))
}

/// Whether it is for datagrams.
pub(crate) fn is_udp(socket: &OwnedFd) -> bool {
    sockopt::socket_type(socket).is_ok_and(|t| t == rustix::net::SocketType::DGRAM)
}

/// A control message of Linux: its length, its level and kind, and what it says from here on.
const SAYS: usize = mem::size_of::<usize>() + 8;
/// Room for one with an `in6_pktinfo`, the largest.
const CONTROL: usize = SAYS + 24;

/// That room, aligned as `cmsghdr` asks.
#[repr(align(8))]
struct Control([MaybeUninit<u8>; CONTROL]);

/// Whether the socket has many addresses: one that is bound to a wildcard.
pub(crate) fn is_wildcard(socket: &OwnedFd) -> bool {
    getsockname(socket).is_ok_and(|a| SocketAddr::try_from(a).is_ok_and(|a| a.ip().is_unspecified()))
}

/// A datagram: its length, who sent it, and to which address of ours, where the socket tells.
pub(crate) type Datagram = (usize, Option<SocketAddr>, Option<IpAddr>);

/// Takes a datagram.
pub(crate) fn receive_told(socket: &OwnedFd, room: &mut [u8]) -> Result<Datagram, Errno> {
    let mut control = Control([MaybeUninit::new(0); CONTROL]);
    let mut told = RecvAncillaryBuffer::new(&mut control.0);
    let got = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut told, RecvFlags::empty())?;
    drop(told);
    // SAFETY: all of it was written above, and the kernel writes bytes over it.
    let control = control.0.map(|byte| unsafe { byte.assume_init() });
    Ok((got.bytes, got.address.and_then(|a| SocketAddr::try_from(a).ok()), local_of(&control)))
}

/// The address that an answer can leave from; none when it was sent to many.
fn local_of(control: &[u8; CONTROL]) -> Option<IpAddr> {
    let (head, says) = control.split_first_chunk::<SAYS>()?;
    let [.., a, b, c, d, e, f, g, h] = *head;
    let addr: IpAddr = match (c_int::from_ne_bytes([a, b, c, d]), c_int::from_ne_bytes([e, f, g, h])) {
        // Behind the number of an interface: our address, and then the one in the packet, which may be of many.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => (*says[4..].first_chunk::<4>()?).into(),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => (*says.first_chunk::<16>()?).into(),
        _ => return None,
    };
    (!addr.is_unspecified() && !addr.is_multicast()).then_some(addr)
}

/// Sends a datagram from this address of ours, if there is room for it now.
pub(crate) fn send_from(socket: &OwnedFd, data: &[u8], from: IpAddr, to: SocketAddr) -> io::Result<usize> {
    let mut control = [0; CONTROL];
    let (head, says) = control.split_at_mut(SAYS);
    let (level, kind, len) = match from {
        IpAddr::V4(v4) => {
            says[4..8].copy_from_slice(&v4.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, mem::size_of::<libc::in_pktinfo>())
        }
        IpAddr::V6(v6) => {
            says[..16].copy_from_slice(&v6.octets());
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, mem::size_of::<libc::in6_pktinfo>())
        }
    };
    let len = SAYS + len;
    head[..SAYS - 8].copy_from_slice(&len.to_ne_bytes());
    head[SAYS - 8..SAYS - 4].copy_from_slice(&level.to_ne_bytes());
    head[SAYS - 4..].copy_from_slice(&kind.to_ne_bytes());
    let (to, data) = (SockAddr::from(to), [IoSlice::new(data)]);
    let message = MsgHdr::new().with_addr(&to).with_buffers(&data).with_control(&control[..len]);
    SockRef::from(socket).sendmsg(&message, libc::MSG_DONTWAIT)
}

/// How many seconds the system waits for a client's first bytes before it hands the connection over without them.
const DEFER_S: c_int = 1;

/// One worker's listening socket on a reserved address. With `spoken` a connection is accepted when its client has sent
/// something, which saves a wake-up; only where the client speaks first.
pub(crate) fn listen(addr: SocketAddr, spoken: bool) -> io::Result<std::net::TcpListener> {
    let socket = open(addr)?;
    socket.set_reuse_port(true)?;
    // Both are inherited by what it accepts. A request is acknowledged by its response, and not by a packet before it.
    socket.set_tcp_nodelay(true)?;
    sockopt::set_tcp_quickack(&socket, false)?;
    if spoken {
        set(&socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, DEFER_S)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn set(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call and is of the type that the options take.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast::<libc::c_void>(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closing this socket resets the connection, so that the other end sees a cut and not an end.
pub(crate) fn reset_on_close(socket: &impl std::os::fd::AsFd) {
    let _ = SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}

/// Bytes of ours that the other end's TCP has acknowledged on a connection that we opened.
pub(crate) fn bytes_acked(socket: &impl AsRawFd) -> Option<u64> {
    // struct tcp_info of linux/tcp.h: tcpi_bytes_acked is the u64 at offset 120 since Linux 4.1.
    const AT: usize = 120;
    let mut info = [0u64; 32];
    let mut len = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `info`, which outlives the call; the kernel writes at most `len` bytes.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast::<libc::c_void>(),
            &raw mut len,
        )
    };
    // The SYN counts as one (RFC 9293 §3.4).
    (rc == 0 && len as usize >= AT + 8).then(|| info[AT / 8].saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    #[test]
    fn acknowledged_bytes_are_counted_without_the_syn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(bytes_acked(&client), Some(0));
        client.write_all(b"hello").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        server.write_all(b"x").unwrap(); // carries the acknowledgement
        client.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(bytes_acked(&client), Some(5));
    }

    #[test]
    fn a_reserved_address_refuses_and_can_be_listened_on() {
        let reserved = reserve("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = local_addr(&reserved).unwrap();
        assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let (a, b) = (listen(addr, false).unwrap(), listen(addr, true).unwrap());
        assert!(TcpStream::connect(addr).is_ok());
        assert_eq!(reserve(addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((a, b));
        assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
