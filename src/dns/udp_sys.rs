//! The system calls of the UDP path: batches of datagrams in and out, answered in place.
//!
//! `recvmmsg` fills up to [`BATCH`] buffers, the answers are written into the same buffers, and `sendmmsg` sends them with
//! the same headers: nothing is copied and nothing but the lengths is reset. No safe wrapper of these two calls exists
//! that keeps its headers from one batch to the next.
#![allow(unsafe_code)] // recvmmsg, sendmmsg and three socket options; each block has its argument

use crate::responder::{BATCH, Datagrams};
use std::{io, mem, net::SocketAddr, os::fd::AsRawFd, ptr};

/// Bytes of a buffer: no query is longer, and no answer over UDP.
pub(crate) const BUFFER: usize = 4096;
/// From one buffer to the next: not a power of two, or the first lines of all buffers would share one set of the cache.
const STRIDE: usize = BUFFER + 64;
/// Room for one control message with a packet's local address; aligned as `cmsghdr` asks.
type Control = [u64; 8];

/// Buffers, addresses and headers of one worker. The headers point into the boxes beside them.
pub(crate) struct Batch {
    buffers: Box<[[u8; STRIDE]; BATCH]>,
    addresses: Box<[libc::sockaddr_storage; BATCH]>,
    controls: Option<Box<[Control; BATCH]>>,
    vectors: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
    /// Length of each answer; none: not answered.
    replies: [Option<usize>; BATCH],
    /// So many headers were written to since they were last set up.
    used: usize,
}

// SAFETY: all pointers in `vectors` and `headers` point into boxes that the same value owns, so they move with it; nothing
// is tied to a thread.
unsafe impl Send for Batch {}

impl Batch {
    /// A batch; with `local`, each answer leaves from the address that was asked (sockets bound to a wildcard).
    pub(crate) fn new(local: bool) -> Batch {
        // SAFETY: sockaddr_storage is a plain C struct for which all zeroes are a valid value.
        let mut addresses: Box<[libc::sockaddr_storage; BATCH]> = unsafe { Box::new(mem::zeroed()) };
        // SAFETY: so is iovec.
        let mut vectors: Box<[libc::iovec; BATCH]> = unsafe { Box::new(mem::zeroed()) };
        // SAFETY: so is mmsghdr.
        let mut headers: Box<[libc::mmsghdr; BATCH]> = unsafe { Box::new(mem::zeroed()) };
        let mut buffers = Box::new([[0u8; STRIDE]; BATCH]);
        let mut controls = local.then(|| Box::new([[0u64; 8]; BATCH]));
        for i in 0..BATCH {
            vectors[i].iov_base = buffers[i].as_mut_ptr().cast();
            let header = &mut headers[i].msg_hdr;
            header.msg_name = ptr::from_mut(&mut addresses[i]).cast();
            header.msg_iov = ptr::from_mut(&mut vectors[i]);
            header.msg_iovlen = 1;
            if let Some(controls) = &mut controls {
                header.msg_control = controls[i].as_mut_ptr().cast();
            }
        }
        Batch { buffers, addresses, controls, vectors, headers, replies: [None; BATCH], used: BATCH }
    }

    /// Waits for at least one datagram, at most for the socket's timeout; how many came.
    pub(crate) fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        for i in 0..self.used {
            self.vectors[i].iov_len = BUFFER;
            let header = &mut self.headers[i].msg_hdr;
            header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_controllen = if self.controls.is_some() { mem::size_of::<Control>() } else { 0 };
        }
        // SAFETY: the headers point to live buffers of the lengths set above, owned by `self`, which is borrowed mutably
        // for the whole call.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error());
        self.used = *n.as_ref().unwrap_or(&BATCH);
        let n = n?;
        self.replies[..n].fill(None);
        Ok(n)
    }

    /// Sends the answers among the first `n` buffers; how many could not be sent.
    pub(crate) fn send(&mut self, socket: &impl AsRawFd, n: usize) -> usize {
        let (mut at, mut lost) = (0, 0);
        for i in 0..n {
            if let Some(len) = self.replies[i] {
                self.vectors[i].iov_len = len;
                self.answer_from(i);
            }
        }
        while at < n {
            let run = self.replies[at..n].iter().take_while(|r| r.is_some()).count();
            if run == 0 {
                at += 1;
                continue;
            }
            // SAFETY: headers `at..at + run` are initialised and point to live buffers owned by `self`, of the lengths set
            // above; the kernel only reads them.
            let sent = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr().add(at), run as libc::c_uint, 0)
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => at += sent,
                // The first one cannot be sent (unreachable, buffers full): UDP may lose it, the others go on.
                _ => (at, lost) = (at + 1, lost + 1),
            }
        }
        lost
    }

    /// Turns the control message of a received packet into that of its answer: from its destination, by any route.
    fn answer_from(&mut self, i: usize) {
        let Some(controls) = &mut self.controls else { return };
        let header = &mut self.headers[i].msg_hdr;
        let words = &mut controls[i];
        // SAFETY: the control buffer is 64 bytes, aligned to 8, and was zeroed or filled by the kernel; a cmsghdr (16
        // bytes) and the larger of both structures behind it (in6_pktinfo, 20 bytes) lie inside; both are plain integers.
        unsafe {
            let cmsg = words.as_mut_ptr().cast::<libc::cmsghdr>();
            let data = libc::CMSG_DATA(cmsg);
            match ((*cmsg).cmsg_level, (*cmsg).cmsg_type) {
                _ if header.msg_controllen < mem::size_of::<libc::cmsghdr>() => {}
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>();
                    (*info).ipi_spec_dst = (*info).ipi_addr;
                    (*info).ipi_ifindex = 0;
                    header.msg_controllen =
                        libc::CMSG_SPACE(mem::size_of::<libc::in_pktinfo>() as u32) as usize;
                    return;
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    (*data.cast::<libc::in6_pktinfo>()).ipi6_ifindex = 0;
                    header.msg_controllen =
                        libc::CMSG_SPACE(mem::size_of::<libc::in6_pktinfo>() as u32) as usize;
                    return;
                }
                _ => {}
            }
        }
        header.msg_controllen = 0;
    }
}

impl Datagrams for Batch {
    fn datagram(&mut self, i: usize) -> (&mut [u8], usize) {
        // A datagram longer than the buffer was cut; its length is the buffer's, and it will not parse.
        let len = (self.headers[i].msg_len as usize).min(BUFFER);
        (&mut self.buffers[i][..BUFFER], len)
    }

    fn reply(&mut self, i: usize, len: Option<usize>) {
        self.replies[i] = len.map(|l| l.min(BUFFER));
    }

    fn peer(&self, i: usize) -> Option<SocketAddr> {
        let address = ptr::from_ref(&self.addresses[i]);
        let len = self.headers[i].msg_hdr.msg_namelen as usize;
        match libc::c_int::from(self.addresses[i].ss_family) {
            libc::AF_INET if len >= mem::size_of::<libc::sockaddr_in>() => {
                // SAFETY: sockaddr_storage is large and aligned enough for each kind of address, all bytes of it are
                // initialised, and the kernel has written one of this kind.
                let from = unsafe { *address.cast::<libc::sockaddr_in>() };
                Some((from.sin_addr.s_addr.to_ne_bytes(), u16::from_be(from.sin_port)).into())
            }
            libc::AF_INET6 if len >= mem::size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let from = unsafe { *address.cast::<libc::sockaddr_in6>() };
                Some((from.sin6_addr.s6_addr, u16::from_be(from.sin6_port)).into())
            }
            _ => None,
        }
    }
}

/// Asks for the local address of each packet, and for packets that routers do not fragment.
pub(crate) fn set_options(socket: &impl AsRawFd, addr: &SocketAddr) -> io::Result<()> {
    let v4 = addr.is_ipv4();
    if addr.ip().is_unspecified() {
        match v4 {
            true => set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
            false => set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?,
        }
    }
    if v4 {
        // Forged "fragmentation needed" messages are ignored, and no shared counter of packet ids is touched.
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    }
    Ok(())
}

/// Lets answers that are larger than a link takes go out in pieces: without that they would be lost unseen.
pub(crate) fn allow_fragments(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
}

fn set(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one c_int from a live variable of that size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
