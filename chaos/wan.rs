//! Distance between sites: a forwarder in the hub through which every packet from one site to another goes.
//!
//! The hub routes what comes in from a site and goes to another one into a TUN device; the forwarder reads it there,
//! keeps it as long as the way takes, and gives it back to the same device, from where the hub delivers it. So these
//! are real packets: refusals, SYNs, retransmissions and UDP behave, which a proxy of connections would hide. The
//! judge in the hub reaches every site directly.
//!
//! A link has a one-way delay with jitter, loss that comes in bursts (Gilbert 1960, Elliott 1963), and packets that
//! overtake others. Packets of one link keep their order otherwise.

use crate::{net::Net, rng::Rng, tun};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs::File,
    io::{self, Read as _, Write as _},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// One direction between two sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// One-way delay in milliseconds.
    pub delay_ms: u32,
    /// Added to it, from 0 to so much.
    pub jitter_ms: u32,
    /// Loss in bad times, in per mille.
    pub loss: u32,
    /// Mean length of bad times in milliseconds; 0: all times are bad, so that loss is evenly spread.
    pub bad_ms: u32,
    /// Mean length of good times.
    pub good_ms: u32,
    /// Packets that go at once and overtake others, in per mille.
    pub reorder: u32,
}

impl Link {
    /// A link of a round trip of so many milliseconds and nothing else.
    pub fn rtt(ms: u32) -> Link {
        Link { delay_ms: ms / 2, ..Link::default() }
    }
}

/// More packets under way than this are dropped, as a router does: some seconds of what the laboratory sends.
const QUEUE: usize = 20_000;
/// Largest packet.
const MTU: usize = 2048;

struct Packet {
    due: Instant,
    /// Order of arrival, among those due at once.
    number: u64,
    bytes: Box<[u8]>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Packet) -> bool {
        self.number == other.number
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Packet) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    fn cmp(&self, other: &Packet) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// What a link remembers.
struct Way {
    link: Link,
    bad: bool,
    turns: Instant,
    /// When the last packet in order arrives.
    last: Instant,
}

struct Road {
    rng: Rng,
    ways: BTreeMap<(u8, u8), Way>,
    queue: BinaryHeap<Reverse<Packet>>,
    number: u64,
    dropped: u64,
}

impl Road {
    /// Takes a packet on its way, or loses it.
    fn take(&mut self, bytes: &[u8], now: Instant) {
        // IPv4 only: source and destination end with the site's number in the third byte
        let (Some(from), Some(to)) = (bytes.get(14), bytes.get(18)) else { return };
        let Some(way) = self.ways.get_mut(&(*from, *to)) else { return };
        let Some(due) = way.fate(now, &mut self.rng).filter(|_| self.queue.len() < QUEUE) else {
            self.dropped += 1;
            return;
        };
        self.number += 1;
        self.queue.push(Reverse(Packet { due, number: self.number, bytes: bytes.into() }));
    }
}

impl Way {
    fn new(link: Link, now: Instant) -> Way {
        Way { link, bad: false, turns: now, last: now }
    }

    /// When a packet arrives; none: never.
    fn fate(&mut self, now: Instant, rng: &mut Rng) -> Option<Instant> {
        let link = self.link;
        while link.bad_ms > 0 && self.turns <= now {
            self.bad = !self.bad;
            let mean = if self.bad { link.bad_ms } else { link.good_ms };
            self.turns = self.turns.max(now - Duration::from_secs(1))
                + Duration::from_millis(rng.exponential(u64::from(mean)));
        }
        if (self.bad || link.bad_ms == 0) && rng.chance(u64::from(link.loss)) {
            return None;
        }
        let delay = Duration::from_millis(u64::from(link.delay_ms));
        if rng.chance(u64::from(link.reorder)) {
            return Some(now + delay / 2);
        }
        let jitter = Duration::from_micros(rng.below(1 + 1000 * u64::from(link.jitter_ms)));
        self.last = self.last.max(now + delay + jitter);
        Some(self.last)
    }
}

struct Shared {
    road: Mutex<Road>,
    more: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn road(&self) -> MutexGuard<'_, Road> {
        self.road.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The forwarder of a [`Net`]. Dropped, it ends, and the hub delivers directly again.
pub struct Wan {
    shared: Arc<Shared>,
    net: Arc<Net>,
}

/// Name of the device in the hub.
pub(crate) const DEVICE: &str = "wan0";

impl Wan {
    /// Makes the device and its routes, and begins to forward with the same `link` everywhere.
    pub fn start(net: &Arc<Net>, link: Link, seed: u64) -> io::Result<Wan> {
        let device = net.inside(|| tun::open(DEVICE))??;
        net.detour(DEVICE)?;
        let now = Instant::now();
        let sites = 1..=net.sites() as u8;
        let pairs = sites.clone().flat_map(|a| sites.clone().map(move |b| (a, b)));
        let ways = pairs.map(|pair| (pair, Way::new(link, now))).collect();
        let road = Road { rng: Rng::new(seed), ways, queue: BinaryHeap::new(), number: 0, dropped: 0 };
        let shared = Arc::new(Shared { road: Mutex::new(road), more: Condvar::new(), stop: false.into() });
        let (reader, writer) = (device.try_clone()?, device);
        let (in_, out) = (shared.clone(), shared.clone());
        std::thread::spawn(move || read(reader, &in_));
        std::thread::spawn(move || write(writer, &out));
        Ok(Wan { shared, net: net.clone() })
    }

    /// Changes both directions between two sites, counted from 0.
    pub fn set(&self, a: usize, b: usize, link: Link) {
        let (a, b, now) = (a as u8 + 1, b as u8 + 1, Instant::now());
        let mut road = self.shared.road();
        for pair in [(a, b), (b, a)] {
            if let Some(way) = road.ways.get_mut(&pair) {
                *way = Way { last: way.last, ..Way::new(link, now) };
            }
        }
    }

    /// Packets forwarded and packets lost so far.
    pub fn totals(&self) -> (u64, u64) {
        let road = self.shared.road();
        (road.number, road.dropped)
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.shared.more.notify_all();
        let _ = self.net.remove(DEVICE); // which ends the reader
    }
}

/// Ends when the device is gone.
fn read(mut device: File, shared: &Shared) {
    let mut buffer = [0; MTU];
    while !shared.stop.load(Relaxed) {
        let Ok(n) = device.read(&mut buffer) else { return };
        shared.road().take(&buffer[..n], Instant::now());
        shared.more.notify_one();
    }
}

fn write(mut device: File, shared: &Shared) {
    let mut road = shared.road();
    while !shared.stop.load(Relaxed) {
        let now = Instant::now();
        let due = road.queue.peek().map(|Reverse(p)| p.due);
        match due {
            Some(due) if due <= now => {
                if let Some(Reverse(packet)) = road.queue.pop() {
                    drop(road);
                    let _ = device.write(&packet.bytes); // a packet that is not taken is lost, as packets are
                    road = shared.road();
                }
            }
            due => {
                let wait = due.map_or(Duration::from_millis(200), |due| due - now);
                road = shared.more.wait_timeout(road, wait).map_or_else(|e| e.into_inner().0, |r| r.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(link: Link, n: u32) -> Vec<Option<Duration>> {
        let (start, mut rng) = (Instant::now(), Rng::new(1));
        let mut way = Way::new(link, start);
        (0..n)
            .map(|i| way.fate(start + Duration::from_millis(u64::from(i)), &mut rng).map(|at| at - start))
            .collect()
    }

    #[test]
    fn a_link_delays_and_keeps_the_order() {
        let arrivals: Vec<_> = fates(Link { delay_ms: 50, jitter_ms: 20, ..Link::default() }, 1000);
        assert!(arrivals.iter().all(Option::is_some));
        assert!(arrivals.is_sorted());
        for (i, at) in arrivals.iter().enumerate() {
            let took = at.unwrap().as_millis() as usize - i;
            assert!((50..=70).contains(&took), "{took} ms");
        }
    }

    #[test]
    fn some_packets_overtake_others() {
        let arrivals = fates(Link { delay_ms: 50, reorder: 100, ..Link::default() }, 1000);
        assert!(!arrivals.is_sorted());
    }

    #[test]
    fn loss_comes_in_bursts() {
        let link = Link { loss: 900, bad_ms: 50, good_ms: 950, ..Link::default() };
        let fates = fates(link, 60_000);
        let lost = fates.iter().filter(|f| f.is_none()).count();
        assert!((1_500..5_000).contains(&lost), "{lost} of 60000, 2700 expected");
        let neighbours = fates.windows(2).filter(|w| w[0].is_none() && w[1].is_none()).count();
        assert!(neighbours * 2 > lost, "a lost packet is mostly followed by another: {neighbours} of {lost}");
    }
}
