//! A restart into a new binary without a gap: the running process (the *old* one) starts its successor on SIGUSR2 and
//! hands it the listening sockets.
//!
//! ```text
//! old: starts the successor, listens on DATA_DIR/handover.sock
//!                                      successor: reads its configuration, connects        (until here nothing changed)
//! old: lets go of Raft, store, admin and peer ports; goes on answering from what it published last
//!      sends the sockets (SCM_RIGHTS)
//!                                      successor: opens the store, answers on the same sockets, says so
//! old: accepts no more, finishes what runs within the drain time, exits with 0
//! ```
//!
//! Both hold the same sockets, so that nothing that waits in them is lost: it is taken by one or by the other. A successor
//! that ends before it connects changes nothing; one that fails later is tried again from the binary that runs now.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::{
    ffi::OsString,
    fs, io,
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

/// Tells a successor where its predecessor waits.
const VARIABLE: &str = "ZONEKEEPER_HANDOVER";
/// Name of the socket in the data directory.
const SOCKET: &str = "handover.sock";
/// How long a successor may take until it connects.
const CONNECT: Duration = Duration::from_secs(30);
/// Descriptors in one message; the system allows 253.
const BATCH: usize = 64;
/// Longest list of names in one message.
const NAMES: usize = 64 * 1024;
const READY: u8 = b'R';

/// Sockets with their names.
pub(crate) type Sockets = Vec<(String, OwnedFd)>;

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// The old process's side.
pub(crate) struct Predecessor {
    socket: PathBuf,
    line: UnixStream,
    child: Child,
}

impl Predecessor {
    /// Starts a successor and waits until it has connected. Blocks.
    pub(crate) fn begin(data_dir: &Path, program: &Path) -> io::Result<Predecessor> {
        let socket = data_dir.join(SOCKET);
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, &socket);
        let mut child = command.spawn()?;
        let line = Predecessor::connected(&listener, &mut child);
        let _ = fs::remove_file(&socket);
        match line {
            Ok(line) => Ok(Predecessor { socket, line, child }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    fn connected(listener: &UnixListener, child: &mut Child) -> io::Result<UnixStream> {
        let until = Instant::now() + CONNECT;
        loop {
            match listener.accept() {
                Ok((line, _)) => {
                    line.set_nonblocking(false)?;
                    return Ok(line);
                }
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                Err(_) => {}
            }
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!(
                    "the new process ended before it was ready ({status})"
                )));
            }
            if Instant::now() > until {
                return Err(timed_out("the new process does not get ready"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Hands the sockets over and waits until the successor answers on them. Blocks; an error when it ended instead.
    pub(crate) fn finish(mut self, sockets: &[(String, OwnedFd)]) -> io::Result<()> {
        let handed = self.hand(sockets);
        let _ = fs::remove_file(&self.socket);
        if handed.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        handed
    }

    fn hand(&mut self, sockets: &[(String, OwnedFd)]) -> io::Result<()> {
        for batch in sockets.chunks(BATCH) {
            send(&self.line, batch)?;
        }
        send(&self.line, &[])?;
        let mut said = [0];
        self.line.read_exact(&mut said)?;
        if said == [READY] { Ok(()) } else { Err(io::Error::other("the new process says something else")) }
    }
}

/// A process's line to the one that it succeeds, if it does.
pub(crate) struct Line(Option<UnixStream>);

impl Line {
    /// Connects to the process that started this one for a hand-over and takes its sockets; none where nobody did. Blocks
    /// until the old one has let go of its data directory.
    pub(crate) fn of_environment() -> io::Result<(Sockets, Line)> {
        let Some(socket) = std::env::var_os(VARIABLE).filter(|s| !s.is_empty()) else {
            return Ok((Sockets::new(), Line(None)));
        };
        let line = UnixStream::connect(PathBuf::from(socket))?;
        let mut sockets = Sockets::new();
        loop {
            match receive(&line)? {
                batch if batch.is_empty() => return Ok((sockets, Line(Some(line)))),
                batch => sockets.extend(batch),
            }
        }
    }

    /// Somebody handed over to this process.
    pub(crate) fn is_successor(&self) -> bool {
        self.0.is_some()
    }

    /// This process answers on the sockets; whoever had them before may go.
    pub(crate) fn ready(self) {
        if let Some(mut line) = self.0
            && let Err(error) = line.write_all(&[READY])
        {
            tracing::warn!(%error, "the process before this one cannot be told to go");
        }
    }
}

/// Sends a batch: how many there are, how long their names are, and the names, one a line.
fn send(line: &UnixStream, batch: &[(String, OwnedFd)]) -> io::Result<()> {
    let names: String = batch.iter().map(|(name, _)| format!("{name}\n")).collect();
    let mut head = [0; 8];
    head[..4].copy_from_slice(&(batch.len() as u32).to_be_bytes());
    head[4..].copy_from_slice(&(names.len() as u32).to_be_bytes());
    let fds: Vec<_> = batch.iter().map(|(_, fd)| fd.as_fd()).collect();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("too many sockets in one message"));
    }
    sendmsg(line, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)?;
    let mut line = line;
    line.write_all(names.as_bytes())
}

fn receive(line: &UnixStream) -> io::Result<Sockets> {
    let mut head = [0; 8];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let got = recvmsg(line, &mut [IoSliceMut::new(&mut head)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fds: Vec<OwnedFd> = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        })
        .collect();
    let mut line = line;
    line.read_exact(&mut head[got.bytes..])?;
    let number =
        |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (count, len) = (number(0), number(4));
    if count != fds.len() || len > NAMES {
        return Err(io::Error::other(
            "the hand-over is not readable; do both processes speak the same version?",
        ));
    }
    let mut names = vec![0; len];
    line.read_exact(&mut names)?;
    let names = String::from_utf8(names).map_err(io::Error::other)?;
    Ok(names.lines().map(str::to_owned).zip(fds).collect())
}

/// The file of this program, as it is now: after an update by renaming that is the new one.
pub(crate) fn program() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let text = program.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| program.clone(), PathBuf::from))
}

/// The program that runs, whatever became of its file.
pub(crate) fn running() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Tells systemd that this process is ready, and the main one of its unit (`sd_notify`); nothing without it.
pub(crate) fn tell_ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let word = format!("MAINPID={}\nREADY=1", std::process::id());
    if let Err(error) = notify(&socket, word.as_bytes()) {
        tracing::warn!(%error, "systemd cannot be told that this process is ready");
    }
}

fn notify(socket: &OsString, word: &[u8]) -> io::Result<()> {
    use std::os::{linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _, unix::net::SocketAddr};
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(word, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn sockets_arrive_with_their_names_and_are_the_same() {
        let (old, new) = UnixStream::pair().unwrap();
        let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addrs: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let batch: Sockets =
            listeners.into_iter().zip(&addrs).map(|(l, a)| (format!("proxy listen {a}"), l.into())).collect();
        send(&old, &batch).unwrap();
        send(&old, &[]).unwrap();
        drop(batch);
        let got = receive(&new).unwrap();
        assert!(receive(&new).unwrap().is_empty());
        assert_eq!(got.len(), 3);
        for ((name, fd), addr) in got.into_iter().zip(addrs) {
            assert_eq!(name, format!("proxy listen {addr}"));
            let client = TcpStream::connect(addr).unwrap();
            let (_, peer) = TcpListener::from(fd).accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
    }

    #[test]
    fn what_is_no_hand_over_is_an_error() {
        for bytes in [&[0u8, 0, 0, 1, 0, 0, 0, 1, b'a'][..], &[0, 0, 0, 0, 0xff, 0, 0, 0], &[1, 2]] {
            let (mut old, new) = UnixStream::pair().unwrap();
            old.write_all(bytes).unwrap();
            drop(old);
            assert!(receive(&new).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn systemd_is_told_on_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        notify(&path.into_os_string(), b"READY=1").unwrap();
        let mut got = [0; 16];
        let n = systemd.recv(&mut got).unwrap();
        assert_eq!(&got[..n], b"READY=1");
    }
}
