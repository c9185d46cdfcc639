//! Webhooks: the leader posts its news, signed, until the receiver acknowledges.
//!
//! # What is promised
//!
//! - A POST with a JSON body ([`Announcement`]) for each decision, `degraded`, `disarmed`, `quorum_lost` (and their ends).
//! - `Zonekeeper-Signature: t=SECONDS,v1=HEX`: HMAC-SHA-256 over `SECONDS.BODY` with the webhook's key. A receiver
//!   compares it, and refuses what is older than it likes.
//! - At least once, and in order for each receiver: retried with growing pauses until a 2xx answer, for up to an hour.
//!   `Zonekeeper-Delivery` is the event's `id`: the same in every repetition, so that a receiver can tell, and never that
//!   of another announcement.
//! - A node that begins to lead sends the decisions of the last hour again, because it cannot know what its predecessor
//!   got through: a change of leader, or a restart of all nodes, loses none that a receiver would still have been sent.
//!   It sends the alarms that stand as well, and the ends of the last minute: each node finds alarms by itself, so they
//!   come under an id of that node, and none is lost because nobody led when it was raised.
//! - A webhook that is put again, with another key, keeps what waits for it; that is signed with the new key.
//! - `https://` receivers must have a certificate that this machine trusts (`SSL_CERT_FILE` names other roots).
//!
//! # What is not
//!
//! Nothing about deliveries is replicated or stored. An announcement that waited for an hour, or that came while 4096
//! others waited, is dropped with a line in the log. The decisions themselves are in `GET /v1/decisions`.
//! `quorum_lost` is sent by every node that sees it, since there may be no leader to do so.

use crate::{
    events,
    handles::Handles,
    wire::{Event, EventKind, Generation, hex},
};
use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc, watch},
    task::JoinSet,
};
use zonekeeper_core::{entry::Webhook, secrets::SecretId, state::HISTORY};

/// Announcements that wait for one receiver; more are dropped. A new leader may put the whole history in at once.
const QUEUE: usize = 4 * HISTORY;
/// A receiver has so long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// First and longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// An announcement that was not taken for so long is given up.
const LIFE: Duration = Duration::from_secs(3600);
/// How often receivers and leadership are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What is posted.
#[derive(Debug, Serialize)]
struct Announcement<'a> {
    /// The cluster's id.
    cluster: String,
    /// The event, as in the event stream.
    #[serde(flatten)]
    event: &'a Event,
}

/// One delivery: the same id and body in every repetition.
#[derive(Debug, Clone)]
struct Delivery {
    id: String,
    body: Arc<str>,
    since: Instant,
}

/// Sends until it is dropped.
pub(crate) async fn run(handles: Handles) {
    let mut news = handles.events.subscribe();
    let mut senders = Senders::default();
    let mut look = tokio::time::interval(LOOK);
    let mut led = false;
    loop {
        let event = tokio::select! {
            _ = look.tick() => None,
            event = news.recv() => Some(event),
        };
        // A receiver that was added before the event hears of it.
        senders.follow(hooks(&handles));
        let leads = leads(&handles);
        if leads && !led {
            senders.announce_again(&handles, None);
        }
        led = leads;
        match event {
            Some(Ok(event)) if announced(&event, led) => senders.announce(&handles, &event),
            Some(Err(RecvError::Lagged(missed))) => {
                tracing::warn!(
                    missed,
                    "webhook: events came faster than they were taken; some are announced twice"
                );
                if led {
                    senders.announce_again(&handles, senders.newest);
                }
            }
            Some(Err(RecvError::Closed)) => return,
            Some(Ok(_)) | None => {}
        }
    }
}

/// The receivers with their keys; one whose key this node cannot open has an empty one.
fn hooks(handles: &Handles) -> BTreeMap<String, Webhook> {
    let state = handles.published.load().state.clone();
    let hook = |(url, hook): (&String, &Webhook)| {
        let id = SecretId::Webhook(url.clone());
        let open = |key, context: &[u8], sealed: &[u8]| handles.keyring.open(key, context, sealed);
        let opened = state.secrets.vault.opened(&id, open).into_iter().next();
        let opened = opened.and_then(|plain| String::from_utf8(plain).ok());
        (url.clone(), Webhook { url: url.clone(), secret: opened.unwrap_or_else(|| hook.secret.clone()) })
    };
    state.webhooks.iter().map(hook).collect()
}

fn leads(handles: &Handles) -> bool {
    let status = handles.consensus.status();
    status.leader == Some(handles.node)
}

fn announced(event: &Event, led: bool) -> bool {
    match event.kind {
        EventKind::QuorumLost | EventKind::QuorumRegained => true,
        EventKind::Decision | EventKind::Degraded | EventKind::Disarmed | EventKind::Cleared => led,
        _ => false,
    }
}

/// One task and one queue per receiver, so that a dead one delays no other.
#[derive(Default)]
struct Senders {
    tasks: JoinSet<()>,
    open: BTreeMap<String, Sender>,
    /// Epoch of the newest decision that was announced.
    newest: Option<Generation>,
}

/// The way to one receiver.
struct Sender {
    hook: watch::Sender<Webhook>,
    queue: mpsc::Sender<Delivery>,
    task: tokio::task::AbortHandle,
}

impl Senders {
    /// Starts and stops tasks so that they are those of the state.
    fn follow(&mut self, hooks: BTreeMap<String, Webhook>) {
        self.open.retain(|url, sender| {
            let there = hooks.contains_key(url);
            if !there {
                let waiting = QUEUE - sender.queue.capacity();
                tracing::info!(url = %origin(url), waiting, "webhook: removed, with what waited for it");
                sender.task.abort();
            }
            there
        });
        for (url, hook) in hooks {
            if let Some(sender) = self.open.get(&url) {
                if *sender.hook.borrow() != hook {
                    sender.hook.send_replace(hook);
                }
                continue;
            }
            let ((queue, waiting), (put, hook)) = (mpsc::channel(QUEUE), watch::channel(hook));
            let task = self.tasks.spawn(deliver(hook, waiting));
            self.open.insert(url, Sender { hook: put, queue, task });
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// The decisions of the last hour, from one of them on if it is given, and the alarms that stand.
    fn announce_again(&mut self, handles: &Handles, from: Option<Generation>) {
        let (state, now) = (handles.published.load().state.clone(), handles.log_now());
        let recent = |time| u128::from(now.since(time)) < LIFE.as_millis();
        for d in state.history.iter().filter(|d| recent(d.time)) {
            if from.is_none_or(|from| Generation::from(d.epoch) >= from) {
                self.announce(handles, &events::decision(handles.node, d));
            }
        }
        for alarm in handles.events.alarms() {
            self.announce(handles, &alarm);
        }
    }

    fn announce(&mut self, handles: &Handles, event: &Event) {
        if event.kind == EventKind::Decision {
            self.newest = self.newest.max(Some(event.generation));
        }
        if self.open.is_empty() {
            return;
        }
        let cluster = format!("{:032x}", handles.published.load().state.cluster);
        let body = serde_json::to_string(&Announcement { cluster, event }).unwrap_or_default();
        let delivery = Delivery { id: event.id.clone(), body: body.into(), since: Instant::now() };
        for (url, sender) in &self.open {
            if sender.queue.try_send(delivery.clone()).is_err() {
                tracing::warn!(url = %origin(url), "webhook: {QUEUE} announcements wait already; this one is dropped");
            }
        }
    }
}

/// Scheme, host and port: paths and queries of webhooks hold secrets.
pub(crate) fn origin(url: &str) -> String {
    reqwest::Url::parse(url).map_or_else(|_| "?".into(), |u| u.origin().ascii_serialization())
}

/// Trusts what the machine trusts, and these roots.
fn client(roots: Vec<reqwest::Certificate>) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(ANSWER_WITHIN)
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_merge(roots)
        .build()
}

async fn deliver(hook: watch::Receiver<Webhook>, mut queue: mpsc::Receiver<Delivery>) {
    let client = match client(Vec::new()) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "webhook: no HTTP client");
            return;
        }
    };
    while let Some(delivery) = queue.recv().await {
        let mut pause = PAUSES.0;
        loop {
            let hook = hook.borrow().clone(); // its key may be another one by now
            let Err(why) = post(&client, &hook, &delivery).await else { break };
            if delivery.since.elapsed() > LIFE {
                tracing::warn!(url = %origin(&hook.url), %why, "webhook: an announcement was given up");
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

async fn post(client: &reqwest::Client, hook: &Webhook, delivery: &Delivery) -> Result<(), String> {
    if hook.secret.is_empty() {
        return Err("this node cannot open its signing key; see the node's problems".into());
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let request = client
        .post(&hook.url)
        .header("Content-Type", "application/json")
        .header("Zonekeeper-Delivery", &delivery.id)
        .header("Zonekeeper-Signature", signature(&hook.secret, seconds, &delivery.body))
        .body(delivery.body.to_string());
    let response = request.send().await.map_err(|e| whole(&e.without_url()))?;
    if response.status().is_success() { Ok(()) } else { Err(format!("status {}", response.status())) }
}

/// An error with its causes: that a certificate is not trusted stands in the last.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// `t=SECONDS,v1=HEX`.
fn signature(secret: &str, seconds: u64, body: &str) -> String {
    // HMAC takes keys of every length (RFC 2104 §3).
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("{seconds}.{body}").as_bytes());
    format!("t={seconds},v1={}", hex(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn the_signature_is_hmac_sha_256_over_time_and_body() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        assert_eq!(
            signature("key", 1_700_000_000, "{}"),
            "t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
        );
    }

    /// Takes connections and answers each request with 200, until it is dropped.
    async fn receiver() -> (String, reqwest::Certificate, tokio::task::AbortHandle) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/hook", listener.local_addr().unwrap().port());
        let serve = async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
                let _ = tls.read(&mut [0; 4096]).await;
                let _ =
                    tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                let _ = tls.shutdown().await;
            }
        };
        let root = reqwest::Certificate::from_der(made.cert.der()).unwrap();
        (url, root, tokio::spawn(serve).abort_handle())
    }

    #[tokio::test]
    async fn a_receiver_over_tls_is_told_if_its_certificate_is_trusted() {
        let (url, root, task) = receiver().await;
        let hook = Webhook { url, secret: "key".into() };
        let delivery = Delivery { id: "1".into(), body: "{}".into(), since: Instant::now() };
        let stranger = post(&client(Vec::new()).unwrap(), &hook, &delivery).await.unwrap_err();
        assert!(stranger.contains("certificate"), "{stranger}");
        post(&client(vec![root]).unwrap(), &hook, &delivery).await.unwrap();
        task.abort();
    }

    #[test]
    fn logs_name_no_path_of_a_webhook() {
        assert_eq!(origin("http://hooks.example:8080/secret?token=x"), "http://hooks.example:8080");
    }
}
