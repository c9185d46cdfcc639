//! A non-blocking TCP connection on the event loop.

use super::reactor::{BROKEN, ENDING, LAST, READABLE, Reactor, WRITABLE};
use rustix::{
    io::Errno,
    net::{self, AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, ipproto, sockopt},
    pipe::{SpliceFlags, splice},
};
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    rc::Rc,
    task::Poll,
};

/// A connection. What cannot go on now makes the running task wait for it.
pub(crate) struct Stream {
    fd: OwnedFd,
    slot: u32,
    reactor: Rc<Reactor>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reactor.leave(self.slot);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Stream {
    /// A connection that was accepted. Most clients have sent something by then.
    pub(crate) fn accepted(fd: OwnedFd, reactor: &Rc<Reactor>) -> Stream {
        Stream { fd, slot: reactor.enter(READABLE | WRITABLE), reactor: reactor.clone() }
    }

    /// The loop that it lives on.
    pub(crate) fn reactor(&self) -> &Rc<Reactor> {
        &self.reactor
    }

    /// From now on the running task is told when the other end breaks it off.
    pub(crate) fn watch(&self) {
        let _ = self.reactor.wait_for(self.slot, &self.fd);
    }

    /// The other end broke it off.
    pub(crate) fn broken(&self) -> bool {
        self.reactor.flags(self.slot) & BROKEN != 0
    }

    /// Our end of it.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        net::getsockname(&self.fd).ok().and_then(|a| SocketAddr::try_from(a).ok())
    }

    /// Begins to connect. With `more` something will be sent as soon as the connection stands, and the last packet of the
    /// handshake goes with it.
    pub(crate) fn connect(addr: SocketAddr, more: bool, reactor: &Rc<Reactor>) -> io::Result<Stream> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        if more {
            sockopt::set_tcp_quickack(&fd, false)?;
        }
        match net::connect(&fd, &addr) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(Stream { fd, slot: reactor.enter(0), reactor: reactor.clone() })
    }

    /// A socket for datagrams to and from one address.
    pub(crate) fn datagrams(addr: SocketAddr, reactor: &Rc<Reactor>) -> io::Result<Stream> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = net::socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
        net::connect(&fd, &addr)?;
        Ok(Stream { fd, slot: reactor.enter(0), reactor: reactor.clone() })
    }

    /// Sends a datagram, if there is room for it now; false when the other end refused an earlier one.
    pub(crate) fn send_datagram(&self, data: &[u8]) -> bool {
        let sent = net::send(&self.fd, data, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        !matches!(sent, Err(Errno::CONNREFUSED))
    }

    /// Takes the next datagram.
    pub(crate) fn poll_datagram(&self, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match retry(|| net::recv(&self.fd, &mut *room, RecvFlags::empty())) {
            Ok((_, n)) => Poll::Ready(Ok(n)),
            Err(Errno::AGAIN) => self.wait(),
            Err(e) => Poll::Ready(Err(e.into())),
        }
    }

    /// The connection stands.
    pub(crate) fn poll_connected(&self) -> Poll<io::Result<()>> {
        let flags = self.reactor.flags(self.slot);
        if flags & BROKEN != 0 {
            let error = sockopt::socket_error(&self.fd).and_then(|e| e).err().unwrap_or(Errno::CONNREFUSED);
            return Poll::Ready(Err(error.into()));
        }
        if flags & WRITABLE != 0 { Poll::Ready(Ok(())) } else { self.wait() }
    }

    fn wait<T>(&self) -> Poll<io::Result<T>> {
        match self.reactor.wait_for(self.slot, &self.fd) {
            Ok(()) => Poll::Pending,
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    /// Nothing came since everything was read, the end neither. Costs no system call while nothing happened.
    pub(crate) fn quiet(&self) -> bool {
        if self.reactor.flags(self.slot) & READABLE == 0 {
            return true;
        }
        let quiet = matches!(net::recv(&self.fd, &mut [0; 1], RecvFlags::PEEK), Err(Errno::AGAIN));
        if quiet {
            self.reactor.clear(self.slot, READABLE);
        }
        quiet
    }

    /// Reads what is there; 0 at the end.
    pub(crate) fn poll_read(&self, room: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.reactor.flags(self.slot) & READABLE == 0 {
            return self.wait();
        }
        match self.read_now(room) {
            Ok(Some(n)) => Poll::Ready(Ok(n)),
            Ok(None) => self.wait(),
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    /// Reads what came already, without waiting for it; none when that is nothing.
    pub(crate) fn read_now(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        let flags = self.reactor.flags(self.slot);
        match retry(|| net::recv(&self.fd, &mut *room, RecvFlags::empty())) {
            Ok((_, n)) => {
                if n < room.len() && n > 0 && flags & ENDING == 0 {
                    self.reactor.clear(self.slot, READABLE); // all was read
                }
                Ok(Some(n))
            }
            Err(Errno::AGAIN) => {
                self.reactor.clear(self.slot, READABLE);
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Looks at what is there without taking it; 0 at the end.
    pub(crate) fn poll_peek(&self, room: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.reactor.flags(self.slot) & READABLE == 0 {
            return self.wait();
        }
        match retry(|| net::recv(&self.fd, &mut *room, RecvFlags::PEEK)) {
            Ok((_, n)) => Poll::Ready(Ok(n)),
            Err(Errno::AGAIN) => {
                self.reactor.clear(self.slot, READABLE);
                self.wait()
            }
            Err(e) => Poll::Ready(Err(e.into())),
        }
    }

    /// Waits for more than was peeked at; ready when no more will come.
    pub(crate) fn poll_more(&self) -> Poll<()> {
        if self.ending() {
            return Poll::Ready(());
        }
        self.reactor.clear(self.slot, READABLE);
        self.wait::<()>().map(|_| ())
    }

    /// The other end sends no more than what is there.
    pub(crate) fn ending(&self) -> bool {
        self.reactor.flags(self.slot) & ENDING != 0
    }

    /// Our direction is ended behind what is written from now on, at once: the last of it and the end go in one packet.
    pub(crate) fn set_last(&self) {
        self.reactor.set(self.slot, LAST);
    }

    /// That was said.
    pub(crate) fn is_last(&self) -> bool {
        self.reactor.flags(self.slot) & LAST != 0
    }

    /// Writes as much as fits, at least one byte.
    pub(crate) fn poll_write(&self, data: &[u8]) -> Poll<io::Result<usize>> {
        let ready = self.reactor.flags(self.slot);
        if ready & WRITABLE == 0 {
            return self.wait();
        }
        let more = if ready & LAST == 0 { SendFlags::empty() } else { SendFlags::MORE };
        match retry(|| net::send(&self.fd, data, SendFlags::NOSIGNAL | more)) {
            Ok(n) => {
                if n < data.len() {
                    self.reactor.clear(self.slot, WRITABLE); // its buffer is full
                }
                Poll::Ready(Ok(n))
            }
            Err(Errno::AGAIN) => {
                self.reactor.clear(self.slot, WRITABLE);
                self.wait()
            }
            Err(e) => Poll::Ready(Err(e.into())),
        }
    }

    /// Moves up to `max` bytes into an empty pipe; 0 at the end. The pipe must be empty: only then does "try again" mean
    /// that the connection has no more.
    pub(crate) fn poll_splice_to(&self, pipe: BorrowedFd<'_>, max: usize) -> Poll<io::Result<usize>> {
        if self.reactor.flags(self.slot) & READABLE == 0 {
            return self.wait();
        }
        match retry(|| splice(&self.fd, None, pipe, None, max, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)) {
            Ok(n) => Poll::Ready(Ok(n)),
            Err(Errno::AGAIN) => {
                self.reactor.clear(self.slot, READABLE);
                self.wait()
            }
            Err(e) => Poll::Ready(Err(e.into())),
        }
    }

    /// Moves up to `len` bytes that a pipe holds to the connection. Never with `SPLICE_F_MORE`, which would hold the
    /// tail back for 200 ms.
    pub(crate) fn poll_splice_from(&self, pipe: BorrowedFd<'_>, len: usize) -> Poll<io::Result<usize>> {
        if self.reactor.flags(self.slot) & WRITABLE == 0 {
            return self.wait();
        }
        match retry(|| splice(pipe, None, &self.fd, None, len, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)) {
            Ok(n) => Poll::Ready(Ok(n)),
            Err(Errno::AGAIN) => {
                self.reactor.clear(self.slot, WRITABLE);
                self.wait()
            }
            Err(e) => Poll::Ready(Err(e.into())),
        }
    }

    /// Ends our direction; the other one goes on.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        match net::shutdown(&self.fd, Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
