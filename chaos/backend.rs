//! Small sample backends: HTTP/1.1 with keep-alive, each names itself.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// A running backend; stops accepting and answering when dropped.
pub struct Backend {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Backend {
    /// Listens on `addr` and answers every request with `name`.
    pub fn start(addr: SocketAddr, name: &str) -> io::Result<Backend> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (stop.clone(), name.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Relaxed) {
                    return; // the listener closes: connections are refused
                }
                let Ok(stream) = stream else { continue };
                let (stopped, name) = (stopped.clone(), name.clone());
                std::thread::spawn(move || serve(stream, &name, &stopped));
            }
        });
        Ok(Backend { addr, stop })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_millis(200)); // wakes the accept
    }
}

fn serve(stream: TcpStream, name: &str, stop: &AtomicBool) {
    let _ = stream.set_nodelay(true);
    let Ok(mut out) = stream.try_clone() else { return };
    let mut lines = BufReader::new(stream).lines();
    loop {
        let (mut first, mut last_request) = (true, false);
        loop {
            match lines.next() {
                Some(Ok(line)) if line.is_empty() && !first => break,
                Some(Ok(line)) => {
                    first = false;
                    last_request |= line.eq_ignore_ascii_case("connection: close");
                }
                _ => return,
            }
        }
        if stop.load(Relaxed) {
            return;
        }
        let body = format!("{name}\n");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if out.write_all(answer.as_bytes()).is_err() || last_request {
            return;
        }
    }
}
