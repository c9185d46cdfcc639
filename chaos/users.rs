//! What users feel: a site, and then a backend, is killed under a thousand requests a second.
//!
//! Users resolve the name honestly: they keep an answer for its TTL and ask another name server when one is silent. Of a
//! service that answers all sites they try the next address when one fails before any byte has come; of a failover
//! service they have one address. Every request has a connection of its own, so each of them could fail.

use crate::{
    asker::{self, A, Asker},
    lab::{DNS, HTTP, Lab, LabError, NAME, Options},
    net::{self, Net},
    rng::Rng,
};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The service that answers all sites.
const ALL: &str = "all.example.com";
/// Threads of users; each makes its part of the rate.
const THREADS: u64 = 25;
/// A user gives an address up after this time.
const PATIENCE: Duration = Duration::from_secs(2);
/// Load before the kill and, at least, after it.
const AROUND: Duration = Duration::from_secs(3);
/// TTL of both services, in seconds.
const TTL_S: u64 = 5;
/// What a busy machine may add to an outage that answer and TTL explain.
const MARGIN_MS: f64 = 1_000.0;
/// The part of the asked rate that must have been made: a slower load proves less than it says.
const MADE: f64 = 0.9;

/// What is killed, and who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// A site of a service that answers all sites.
    SiteOfAll,
    /// The answered site of a failover service.
    SiteOfFailover,
    /// A backend.
    Backend,
}

impl Case {
    /// All of them.
    pub const ALL: [Case; 3] = [Case::SiteOfAll, Case::SiteOfFailover, Case::Backend];
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Case::SiteOfAll => "site killed, policy all",
            Case::SiteOfFailover => "site killed, failover",
            Case::Backend => "backend killed",
        })
    }
}

/// What came of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Which.
    pub case: Case,
    /// Requests, from the beginning to the end of the load.
    pub requests: usize,
    /// Requests a second, as they were made.
    pub rate: f64,
    /// Requests a second, as they were asked for.
    pub asked_rate: u64,
    /// Failed before any byte of an answer had come.
    pub no_byte: usize,
    /// Cut off in the middle of an answer.
    pub cut: usize,
    /// From the kill to the changed answer on the slowest survivor, in milliseconds; none where no site died.
    pub answer_ms: Option<f64>,
    /// From the kill to the end of the last request that failed, in milliseconds; none when none failed.
    pub outage_ms: Option<f64>,
    /// Whether it is as it should be.
    pub good: bool,
}

impl Verdict {
    /// Whether the load was as heavy as it says.
    fn made(&self) -> bool {
        self.rate >= MADE * self.asked_rate as f64
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.good { "ok" } else { "BROKEN" };
        write!(
            f,
            "{word:<7}{}: {} requests at {:.0} of {} a second, {} failed before a byte, {} cut",
            self.case, self.requests, self.rate, self.asked_rate, self.no_byte, self.cut
        )?;
        if !self.made() {
            write!(f, "; LESS than {:.0} % of the rate", MADE * 100.0)?;
        }
        if let Some(ms) = self.answer_ms {
            write!(f, "; kill to answer {ms:.0} ms")?;
        }
        match (self.case, self.outage_ms) {
            (_, None) => f.write_str("; no outage"),
            (Case::SiteOfFailover, Some(ms)) => write!(f, ", TTL {TTL_S} s; outage {ms:.0} ms"),
            (_, Some(ms)) => write!(f, "; the last failure after {ms:.0} ms"),
        }
    }
}

/// Runs the cases at so many requests a second.
pub fn run(
    exe: &Path,
    rate: u64,
    cases: &[Case],
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<Vec<Verdict>, LabError> {
    match net::possible() {
        Ok(()) => {
            let net = Arc::new(Net::new(3)?);
            net.clone().inside(|| on(exe, Some(net), rate, cases, say))?
        }
        Err(why) => {
            say(&format!("sites are loopback addresses: {why}"));
            on(exe, None, rate, cases, say)
        }
    }
}

fn on(
    exe: &Path,
    net: Option<Arc<Net>>,
    rate: u64,
    cases: &[Case],
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Verdict>, LabError> {
    let mut options = Options::new(exe.into());
    options.net = net;
    options.service += &format!("ttl = {TTL_S}\n");
    let endpoints: String = options.sites.iter().map(|s| format!("{s} = [\"{{{s}}}:{HTTP}\"]\n")).collect();
    options.more = format!(
        "\n[service.all]\nnames = [\"{ALL}\"]\npolicy = \"all\"\nttl = {TTL_S}\npool = \"web\"\nhold_down = \"2s\"\n\
         failback_after = \"2s\"\ncheck = {{ kind = \"http\", path = \"/\" }}\n[service.all.endpoint]\n{endpoints}"
    );
    let mut lab = Lab::start(options, say)?;
    let mut verdicts = Vec::new();
    for case in cases {
        let verdict = once(&mut lab, *case, rate)?;
        say(&verdict.to_string());
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

fn once(lab: &mut Lab, case: Case, rate: u64) -> Result<Verdict, LabError> {
    let every: BTreeSet<IpAddr> = lab.nodes.iter().map(|n| n.ip).collect();
    lab.wait("everything is answered", Duration::from_secs(90), |lab| {
        let all = |n: &crate::lab::Node| asker::ask(n.at(DNS), ALL, A, Duration::from_millis(300));
        lab.settled() && lab.nodes.iter().all(|n| all(n).is_ok_and(|a| a.addrs == every))
    })?;
    lab.lead(1)?;
    let (name, survivors) = match case {
        Case::SiteOfAll => (ALL, 1..lab.nodes.len()),
        Case::SiteOfFailover => (NAME, 1..lab.nodes.len()),
        Case::Backend => (NAME, 0..0),
    };
    let ask = |i: usize| Asker::start(lab.nodes[i].at(DNS), name, A, Duration::from_millis(2));
    let askers: Vec<Asker> = survivors.map(ask).collect::<Result<_, _>>()?;
    let users = Users::start(lab, name, case == Case::SiteOfAll, rate);
    std::thread::sleep(AROUND);
    let at = match case {
        Case::Backend => {
            let at = Instant::now();
            lab.backends[0][0] = None;
            at
        }
        _ => lab.kill(0)?,
    };
    let expected: BTreeSet<IpAddr> = match case {
        Case::SiteOfAll => every.iter().filter(|ip| **ip != lab.nodes[0].ip).copied().collect(),
        _ => [lab.nodes[1].ip].into(),
    };
    let took =
        |a: &Asker| a.wait(&expected, at, Duration::from_secs(20)).map(|t| (t - at).as_secs_f64() * 1e3);
    let answers: Vec<Option<f64>> = askers.iter().map(took).collect();
    std::thread::sleep(AROUND + Duration::from_secs(TTL_S));
    let (requests, lasted) = users.finish();
    drop(askers);
    match case {
        Case::Backend => lab.revive_backend(0, 0)?,
        _ => _ = lab.restart(0)?,
    }
    Ok(judge(case, at, &answers, &requests, (rate, lasted)))
}

fn judge(
    case: Case,
    at: Instant,
    answers: &[Option<f64>],
    requests: &[(Instant, Outcome)],
    (asked_rate, lasted): (u64, Duration),
) -> Verdict {
    let count = |o: Outcome| requests.iter().filter(|(_, r)| *r == o).count();
    let failed = requests.iter().filter(|(_, r)| *r != Outcome::Good).map(|(done, _)| *done).max();
    let outage_ms = failed.map(|done| done.saturating_duration_since(at).as_secs_f64() * 1e3);
    let unanswered = answers.iter().any(Option::is_none);
    let answer_ms = answers.iter().flatten().copied().reduce(f64::max);
    let (no_byte, cut) = (count(Outcome::NoByte), count(Outcome::Cut));
    let explained = answer_ms.unwrap_or_default() + TTL_S as f64 * 1e3 + MARGIN_MS;
    let good = !unanswered
        && match case {
            Case::SiteOfAll | Case::Backend => no_byte == 0,
            // who has one address waits for the next answer: until then its requests fail, and no longer
            Case::SiteOfFailover => outage_ms.is_none_or(|ms| ms <= explained),
        };
    let rate = requests.len() as f64 / lasted.as_secs_f64();
    let verdict = Verdict {
        case,
        requests: requests.len(),
        rate,
        asked_rate,
        no_byte,
        cut,
        answer_ms,
        outage_ms,
        good,
    };
    Verdict { good: good && verdict.made(), ..verdict }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Good,
    NoByte,
    Cut,
}

/// Threads that request at a fixed rate.
struct Users {
    stop: Arc<AtomicBool>,
    began: Instant,
    threads: Vec<std::thread::JoinHandle<Vec<(Instant, Outcome)>>>,
}

impl Users {
    fn start(lab: &Lab, name: &'static str, others: bool, rate: u64) -> Users {
        let stop = Arc::new(AtomicBool::new(false));
        let servers: Vec<SocketAddr> = lab.nodes.iter().map(|n| n.at(DNS)).collect();
        let every = Duration::from_micros(1_000_000 * THREADS / rate.max(1));
        let threads = (0..THREADS).map(|i| {
            let (stop, servers) = (stop.clone(), servers.clone());
            std::thread::spawn(move || {
                let mut user = User { rng: Rng::new(i + 1), server: i as usize, servers, name, held: None };
                let (mut out, mut due) =
                    (Vec::new(), Instant::now() + every.mul_f64(i as f64 / THREADS as f64));
                while !stop.load(Relaxed) {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    due += every;
                    let outcome = user.request(others);
                    out.push((Instant::now(), outcome));
                }
                out
            })
        });
        Users { threads: threads.collect(), stop, began: Instant::now() }
    }

    fn finish(self) -> (Vec<(Instant, Outcome)>, Duration) {
        self.stop.store(true, Relaxed);
        let lasted = self.began.elapsed();
        (self.threads.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect(), lasted)
    }
}

/// One user, with what it was answered and until when it believes that.
struct User {
    rng: Rng,
    server: usize,
    servers: Vec<SocketAddr>,
    name: &'static str,
    held: Option<(Vec<IpAddr>, Instant)>,
}

impl User {
    fn resolve(&mut self) -> Vec<IpAddr> {
        if let Some((addrs, until)) = &self.held
            && Instant::now() < *until
        {
            return addrs.clone();
        }
        for _ in 0..self.servers.len() {
            let server = self.servers[self.server % self.servers.len()];
            match asker::ask(server, self.name, A, Duration::from_millis(300)) {
                Ok(answer) if !answer.addrs.is_empty() => {
                    let ttl = Duration::from_secs(answer.ttl.unwrap_or_default().into());
                    let addrs: Vec<IpAddr> = answer.addrs.into_iter().collect();
                    self.held = Some((addrs.clone(), Instant::now() + ttl));
                    return addrs;
                }
                _ => self.server += 1,
            }
        }
        Vec::new()
    }

    fn request(&mut self, others: bool) -> Outcome {
        let mut addrs = self.resolve();
        let count = addrs.len();
        let first = self.rng.below(count.max(1) as u64) as usize;
        addrs.rotate_left(first.min(count));
        for addr in addrs.iter().take(if others { addrs.len() } else { 1 }) {
            match get(SocketAddr::new(*addr, HTTP), self.name) {
                Outcome::NoByte => {}
                ended => return ended,
            }
        }
        Outcome::NoByte
    }
}

fn get(addr: SocketAddr, host: &str) -> Outcome {
    let mut answer = Vec::new();
    let whole = (|| {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream
            .write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())?;
        stream.read_to_end(&mut answer)
    })();
    let good = answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"\n");
    match (whole, answer.is_empty()) {
        (Ok(_), false) if good => Outcome::Good,
        // an error page is an answer that failed, and another address would have served
        _ if answer.is_empty() || answer.starts_with(b"HTTP/1.1 5") => Outcome::NoByte,
        _ => Outcome::Cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(case: Case, failed_at_ms: &[u64], answers: &[Option<f64>]) -> bool {
        let at = Instant::now();
        let failed = failed_at_ms.iter().map(|ms| (at + Duration::from_millis(*ms), Outcome::NoByte));
        let requests: Vec<_> = failed.chain([(at, Outcome::Good)]).collect();
        judge(case, at, answers, &requests, (1, Duration::from_secs(1))).good
    }

    #[test]
    fn a_load_that_was_lighter_than_asked_proves_nothing() {
        let at = Instant::now();
        let made = |count| {
            let requests = vec![(at, Outcome::Good); count];
            judge(Case::Backend, at, &[], &requests, (100, Duration::from_secs(2)))
        };
        assert!(made(180).good);
        assert!(!made(179).good);
        assert!(made(179).to_string().contains("LESS than 90 % of the rate"), "{}", made(179));
    }

    #[test]
    fn one_request_without_a_byte_is_too_many_where_another_address_was_there() {
        assert!(verdict(Case::SiteOfAll, &[], &[Some(50.0)]));
        assert!(!verdict(Case::SiteOfAll, &[10], &[Some(50.0)]));
        assert!(!verdict(Case::Backend, &[10], &[]));
    }

    #[test]
    fn an_outage_is_explained_by_answer_and_ttl_or_not() {
        assert!(verdict(Case::SiteOfFailover, &[10, 5_040], &[Some(50.0), Some(60.0)]));
        assert!(!verdict(Case::SiteOfFailover, &[7_000], &[Some(50.0), Some(60.0)]));
        assert!(
            !verdict(Case::SiteOfFailover, &[], &[Some(50.0), None]),
            "a survivor never changed its answer"
        );
    }
}
