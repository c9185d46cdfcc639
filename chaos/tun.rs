//! The one call that makes a TUN device; what comes out of the file and goes into it are whole IP packets.
#![allow(unsafe_code, reason = "TUNSETIFF is an ioctl(2), which std does not wrap")]

use std::{fs::File, io, os::fd::AsRawFd as _};

/// `_IOW('T', 202, int)`, from linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Makes the device `name` in the calling thread's network namespace. It lives as long as the file is open.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is a C struct of integers and a union of such, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name of a device has at most 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and `request` is an ifreq that lives through the call, as TUNSETIFF wants it.
    match unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}
