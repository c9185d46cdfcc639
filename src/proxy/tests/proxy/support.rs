//! A proxy with its state, backends that do as they are told, and a client that sees every byte.

use arc_swap::ArcSwap;
use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use zonekeeper_core::{
    Published, State,
    id::{ListenerId, PoolId},
    model::{Backend, Balance, Bind, Listener, Pool, Protocol, Route},
    route::{PoolTable, ProxyTable},
};
use zonekeeper_proxy::{BindError, LocalHealth, Proxy, ProxyConfig};

/// Nothing here takes longer on a machine that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub proxy: Proxy,
    pub health: Arc<LocalHealth>,
    pub state: State,
    pub published: Arc<ArcSwap<Published>>,
}

fn publish(state: &State) -> Published {
    let site = "here".parse().unwrap();
    Published {
        generation: state.generation,
        proxy: Arc::new(ProxyTable::build(state, &site)),
        dns: Arc::default(),
        state: Arc::new(state.clone()),
    }
}

impl World {
    pub fn try_start(state: State, workers: usize) -> Result<World, BindError> {
        World::take_over(state, workers, &mut Vec::new())
    }

    /// Goes on with the sockets of another one.
    pub fn take_over(
        state: State,
        workers: usize,
        sockets: &mut Vec<(String, OwnedFd)>,
    ) -> Result<World, BindError> {
        let published = Arc::new(ArcSwap::from_pointee(publish(&state)));
        let health = LocalHealth::new();
        let config = ProxyConfig { site: "here".parse().unwrap(), workers };
        let proxy = Proxy::take_over(config, published.clone(), health.clone(), sockets)?;
        Ok(World { proxy, health, state, published })
    }

    pub fn start(state: State) -> World {
        World::try_start(state, 2).unwrap()
    }

    /// One listener `web` over one pool `web`.
    pub fn http(backends: &[SocketAddr]) -> World {
        World::start(state(Protocol::Http, backends))
    }

    pub fn tcp(backends: &[SocketAddr]) -> World {
        World::start(state(Protocol::Tcp, backends))
    }

    pub fn addr(&self, listener: &str) -> SocketAddr {
        self.find(listener).unwrap_or_else(|| panic!("no {listener} in {:?}", self.proxy.local_addrs()))
    }

    pub fn find(&self, listener: &str) -> Option<SocketAddr> {
        self.proxy.local_addrs().iter().find(|(id, _)| id.as_str() == listener).map(|(_, a)| *a)
    }

    pub fn change(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.state);
        self.published.store(Arc::new(publish(&self.state)));
        self.proxy.refresh();
    }

    /// The pool `web` as this site has it.
    pub fn table(&self) -> Arc<PoolTable> {
        publish(&self.state).proxy.pools[&pool_id("web")].clone()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.addr("web")).await
    }

    /// Sends one request on a connection of its own.
    pub async fn ask(&self, request: &str) -> Answer {
        match Client::try_connect(self.addr("web")).await {
            Some(mut client) => {
                client.send(request).await;
                client.answer(request.starts_with("HEAD")).await
            }
            None => Answer { status: 0, head: String::new(), body: vec![], complete: false },
        }
    }
}

pub fn listener_id(id: &str) -> ListenerId {
    id.parse().unwrap()
}

pub fn pool_id(id: &str) -> PoolId {
    id.parse().unwrap()
}

pub fn pool(backends: &[SocketAddr]) -> Pool {
    Pool {
        backends: backends.iter().map(|a| Backend { site: None, addr: *a, weight: 1 }).collect(),
        balance: Balance::RoundRobin,
        check: None,
        connect_timeout_ms: 5000,
        response_timeout_ms: 10_000,
        eject_ms: 300,
        ..Pool::default()
    }
}

pub fn route(pool: &str) -> Route {
    Route::to(pool_id(pool))
}

pub fn listener(protocol: Protocol) -> Listener {
    Listener {
        binds: vec![Bind { site: None, addr: "127.0.0.1:0".parse().unwrap() }],
        protocol,
        tls: None,
        routes: vec![route("web")],
        max_connections: 0,
        header_timeout_ms: 10_000,
        idle_timeout_ms: 10_000,
        max_body: 1 << 20,
        ..Listener::default()
    }
}

pub fn state(protocol: Protocol, backends: &[SocketAddr]) -> State {
    let mut state = State::default();
    state.pools.insert(pool_id("web"), Arc::new(pool(backends)));
    state.listeners.insert(listener_id("web"), Arc::new(listener(protocol)));
    state
}

pub fn edit_pool(state: &mut State, change: impl FnOnce(&mut Pool)) {
    change(Arc::make_mut(state.pools.get_mut(&pool_id("web")).unwrap()));
}

pub fn edit_listener(state: &mut State, change: impl FnOnce(&mut Listener)) {
    change(Arc::make_mut(state.listeners.get_mut(&listener_id("web")).unwrap()));
}

/// Passes a time to the microsecond, which a sleep does not.
pub fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// An HTTP backend that names itself and shows what it got. Dropped, it is dead: its connections are reset or ended.
pub struct Server {
    pub addr: SocketAddr,
    pub requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn bind(addr: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    for tries in 0.. {
        match socket.bind(addr) {
            Ok(()) => break,
            // the one that had it before may not be gone yet
            Err(_) if tries < 1000 => std::thread::sleep(Duration::from_millis(5)),
            Err(e) => panic!("{addr}: {e}"),
        }
    }
    socket.listen(1024).unwrap()
}

pub fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A port that was free a moment ago.
pub fn free() -> SocketAddr {
    bind(any()).local_addr().unwrap()
}

/// A port where nobody listens, for good: it is taken until the tests end, or another test's server could get it.
pub fn dead() -> SocketAddr {
    let socket = std::mem::ManuallyDrop::new(TcpSocket::new_v4().unwrap());
    socket.bind(any()).unwrap();
    socket.local_addr().unwrap()
}

impl Server {
    pub fn start(name: &'static str) -> Server {
        Server::start_at(name, any())
    }

    pub fn start_at(name: &'static str, addr: SocketAddr) -> Server {
        Server::with(addr, move |stream, requests| serve(name, stream, requests))
    }

    /// A backend that does something else with each connection.
    pub fn with<F: Future<Output = ()> + Send + 'static>(
        addr: SocketAddr,
        handle: impl Fn(TcpStream, Arc<AtomicU64>) -> F + Send + 'static,
    ) -> Server {
        let listener = bind(addr);
        let addr = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                connections.spawn(handle(stream, counter.clone()));
            }
        });
        Server { addr, requests, task }
    }

    pub fn count(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

/// Reads one request; none at the end of the connection.
pub async fn read_request(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = loop {
        if let Some(i) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
            break i + 4;
        }
        if stream.read_buf(pending).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(pending.drain(..end).collect()).unwrap();
    let lower = head.to_ascii_lowercase();
    if lower.contains("expect: 100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    let body = if let Some(n) = field(&lower, "content-length") {
        let n: usize = n.parse().unwrap();
        while pending.len() < n {
            if stream.read_buf(pending).await.ok()? == 0 {
                return None;
            }
        }
        pending.drain(..n).collect()
    } else if lower.contains("transfer-encoding: chunked") {
        read_chunks(stream, pending).await?
    } else {
        Vec::new()
    };
    Some((head, body))
}

async fn read_chunks(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(i) = pending.windows(2).position(|w| w == b"\r\n") {
                break pending.drain(..i + 2).collect::<Vec<u8>>();
            }
            if stream.read_buf(pending).await.ok()? == 0 {
                return None;
            }
        };
        let n = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
        while pending.len() < n + 2 {
            if stream.read_buf(pending).await.ok()? == 0 {
                return None;
            }
        }
        body.extend(pending.drain(..n));
        pending.drain(..2);
        if n == 0 {
            return Some(body);
        }
    }
}

pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|l| {
        let (n, v) = l.split_once(':')?;
        n.eq_ignore_ascii_case(name).then_some(v.trim())
    })
}

async fn serve(name: &'static str, mut stream: TcpStream, requests: Arc<AtomicU64>) {
    let mut pending = Vec::new();
    while let Some((head, body)) = read_request(&mut stream, &mut pending).await {
        requests.fetch_add(1, Relaxed);
        let body = [format!("{name}\n{head}").as_bytes(), &body].concat();
        let answer = respond(&head, body);
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        if head.contains("/close") {
            return;
        }
    }
}

/// The response that a path asks for, with this body.
fn respond(head: &str, body: Vec<u8>) -> Vec<u8> {
    let mut parts = head.split(' ');
    let (method, path) = (parts.next().unwrap(), parts.next().unwrap());
    let with = |fields: String, body: &[u8]| [fields.as_bytes(), body].concat();
    match path {
        "/chunked" => {
            let chunks: Vec<u8> = body
                .chunks(7)
                .flat_map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat())
                .collect();
            let end = [chunks.as_slice(), b"0\r\nX-Trailer: 1\r\n\r\n"].concat();
            with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), &end)
        }
        "/close" => with("HTTP/1.1 200 OK\r\n\r\n".into(), &body),
        "/empty" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/same" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n".to_vec(),
        "/500" => b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "/large" => with("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n".into(), &vec![b'x'; 3_000_000]),
        _ => {
            let shown: &[u8] = if method == "HEAD" { &[] } else { &body };
            with(
                format!(
                    "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                ),
                shown,
            )
        }
    }
}

/// What a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The body came to its end as its framing says.
    pub complete: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The backend that answered.
    pub fn by(&self) -> String {
        self.text().lines().next().unwrap_or_default().to_string()
    }
}

/// A raw client.
pub struct Client {
    pub stream: TcpStream,
    pending: Vec<u8>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Client {
        Client::try_connect(addr).await.expect("the proxy does not accept")
    }

    pub async fn try_connect(addr: SocketAddr) -> Option<Client> {
        let stream = TcpStream::connect(addr).await.ok()?;
        let _ = stream.set_nodelay(true);
        Some(Client { stream, pending: Vec::new() })
    }

    /// The connection, and what was read from it.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.pending)
    }

    /// Sends; that nobody takes it is seen in the answer.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Reads more; false at the end, orderly or not.
    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.pending)).await;
        matches!(read.expect("the proxy is silent"), Ok(n) if n > 0)
    }

    /// The connection's end without another byte.
    pub async fn ended(&mut self) -> bool {
        self.pending.is_empty() && !self.more().await
    }

    /// The next response, status 0 when the connection ended before one began.
    pub async fn answer(&mut self, to_head: bool) -> Answer {
        let mut answer = Answer { status: 0, head: String::new(), body: vec![], complete: false };
        let end = loop {
            if let Some(i) = self.pending.windows(4).position(|w| w == b"\r\n\r\n") {
                break i + 4;
            }
            if !self.more().await {
                return answer;
            }
        };
        answer.head = String::from_utf8(self.pending.drain(..end).collect()).unwrap();
        answer.status = answer.head.split(' ').nth(1).unwrap().parse().unwrap();
        answer.complete = true;
        if to_head || answer.status < 200 || matches!(answer.status, 204 | 304) {
            return answer;
        }
        if let Some(n) = field(&answer.head, "content-length") {
            let n: usize = n.parse().unwrap();
            while self.pending.len() < n {
                if !self.more().await {
                    answer.complete = false;
                    break;
                }
            }
            answer.body = self.pending.drain(..n.min(self.pending.len())).collect();
        } else if field(&answer.head, "transfer-encoding").is_some() {
            match read_chunks(&mut self.stream, &mut self.pending).await {
                Some(body) => answer.body = body,
                None => answer.complete = false,
            }
        } else {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.pending);
        }
        answer
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: w.example\r\n\r\n")).await;
        self.answer(false).await
    }
}
