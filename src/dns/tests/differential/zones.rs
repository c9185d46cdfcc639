//! Random zones in a small alphabet, so that rules meet: a parent, a child of it that is served too, and a stranger.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }

    pub(crate) fn of<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }

    /// True in one of `n` cases.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One zone as text.
#[derive(Clone)]
pub(crate) struct Text {
    pub(crate) origin: String,
    pub(crate) text: String,
    /// Owners and targets of its records, absolute, as they stand in the file.
    pub(crate) names: Vec<String>,
}

const LABELS: [&str; 11] = ["a", "b", "c", "A", "*", "ns", "www", "_tcp", "x\\.y", "\\000z", "1\\@\\;"];
/// A label of 63 bytes.
const LONG: &str = "lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll";

/// The zones of family number `k`.
pub(crate) fn family(rng: &mut Rng, k: usize) -> Vec<Text> {
    let (parent, child, other) = (format!("p{k}.test."), format!("sub.p{k}.test."), format!("q{k}.alt."));
    let mut zones = Vec::new();
    for (origin, others, records) in
        [(&parent, [&child, &other], 70), (&child, [&parent, &other], 25), (&other, [&parent, &child], 45)]
    {
        let mut z = Builder::new(origin, others.map(String::as_str));
        if origin == &parent {
            z.record(rng, "sub", "NS", "ns.sub");
            z.record(rng, "sub", "NS", "ns");
            if k.is_multiple_of(2) {
                z.record(rng, "sub", "DS", DS);
            }
            z.record(rng, "ns.sub", "A", "192.0.2.53");
        }
        for i in 0..records {
            z.random(rng, i);
        }
        zones.push(Text { origin: origin.clone(), text: z.text, names: z.names });
    }
    zones.push(renamed(k, rng.one_in(2)));
    zones.push(plain(rng, k));
    zones
}

/// The zone in `rules.zone`, where rules meet on purpose.
pub(crate) fn written() -> Text {
    let text = include_str!("rules.zone").to_string();
    let owners =
        text.lines().filter(|l| !l.starts_with(['$', ' ', ';', '@'])).filter_map(|l| l.split(' ').next());
    let mut names: Vec<String> = owners.map(|o| format!("{o}.example.")).collect();
    names.push("example.".into());
    Text { origin: "example.".into(), text, names }
}

/// A zone whose whole tree is another one's, by a DNAME at its apex.
fn renamed(k: usize, far: bool) -> Text {
    let (origin, target) = (format!("d{k}.alt."), if far { "elsewhere.example." } else { "b.p" });
    let target = if far { target.to_string() } else { format!("{target}{k}.test.") };
    let text = format!(
        "$ORIGIN {origin}\n$TTL 300\n@ SOA ns.p{k}.test. h 7 3600 600 86400 900\n@ NS ns.p{k}.test.\n@ DNAME {target}\n@ TXT \"d\"\n"
    );
    let names = ["", "a.", "ns.", "x.ns."].map(|n| format!("{n}{origin}")).into();
    Text { origin, text, names }
}

/// A zone without cuts, where our short cut answers; `*` stands in it as a name, or only above one.
fn plain(rng: &mut Rng, k: usize) -> Text {
    let (origin, other) = (format!("c{k}.alt."), format!("q{k}.alt."));
    let mut z = Builder::new(&origin, [other.as_str(); 2]);
    let star = rng.of(&["a.*", "*.b"]);
    z.record(rng, star, "A", "192.0.2.7");
    for i in 0..15 {
        let owner = z.owner(rng);
        let rtype = ["A", "AAAA", "TXT"][rng.below(3)];
        let rdata = match rtype {
            "A" => format!("192.0.2.{i}"),
            "AAAA" => format!("2001:db8::{i}"),
            _ => format!("t{i}"),
        };
        z.record(rng, &owner, rtype, &rdata);
    }
    z.names.extend(["x.", "x.y.", "*."].map(|n| format!("{n}{origin}")));
    Text { origin: origin.clone(), text: z.text, names: z.names }
}

const DS: &str = "12345 13 2 00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF";

struct Builder<'a> {
    origin: &'a str,
    others: [&'a str; 2],
    text: String,
    names: Vec<String>,
    /// Types at each owner, in lower case.
    types: BTreeMap<String, BTreeSet<&'static str>>,
    ttls: BTreeMap<(String, &'static str), u32>,
}

impl<'a> Builder<'a> {
    fn new(origin: &'a str, others: [&'a str; 2]) -> Builder<'a> {
        let text = format!(
            "$ORIGIN {origin}\n$TTL 300\n@ SOA ns hostmaster 7 3600 600 86400 30\n@ NS ns\n@ NS ns.b\nns A 192.0.2.1\nns.b A 192.0.2.2\n"
        );
        let types = [("@", vec!["SOA", "NS"]), ("ns", vec!["A"]), ("ns.b", vec!["A"])]
            .map(|(o, t)| (o.to_string(), t.into_iter().collect::<BTreeSet<_>>()));
        let names = ["", "ns.", "ns.b."].map(|n| format!("{n}{origin}")).into();
        let ttls = [("@", "NS"), ("ns", "A"), ("ns.b", "A")].map(|(o, t)| ((o.to_string(), t), 300));
        Builder { origin, others, text, names, types: types.into(), ttls: ttls.into() }
    }

    fn absolute(&self, name: &str) -> String {
        match name {
            "@" => self.origin.to_string(),
            n if n.ends_with('.') => n.to_string(),
            n => format!("{n}.{}", self.origin),
        }
    }

    fn owner(&self, rng: &mut Rng) -> String {
        if rng.one_in(12) {
            return "@".into();
        }
        if rng.one_in(40) {
            return format!("{LONG}.{LONG}");
        }
        let labels: Vec<&str> = (0..=rng.below(3)).map(|_| rng.of(&LABELS)).collect();
        labels.join(".")
    }

    fn target(&self, rng: &mut Rng) -> String {
        match rng.below(8) {
            0 => format!("{}.{}", self.owner(rng).trim_matches('@'), self.others[0])
                .trim_start_matches('.')
                .into(),
            1 => format!("{}.{}", self.owner(rng).trim_matches('@'), self.others[1])
                .trim_start_matches('.')
                .into(),
            2 if rng.one_in(3) => "host.elsewhere.example.".into(),
            _ => self.owner(rng),
        }
    }

    fn random(&mut self, rng: &mut Rng, i: usize) {
        let (owner, target) = (self.owner(rng), self.target(rng));
        let (rtype, rdata) = match rng.below(22) {
            0..=2 => ("A", format!("192.0.2.{i}")),
            3 => ("TXT", format!("\"t{i}\" \"\\\"{i}\\\"\"")),
            4..=7 => ("CNAME", target),
            8..=10 => return self.delegation(rng, &owner, i),
            11 | 12 => ("DNAME", target),
            13 => ("MX", format!("{i} {target}")),
            14 => ("AAAA", format!("2001:db8::{i}")),
            15 => ("SRV", format!("0 5 {i} {target}")),
            16 if rng.one_in(3) => ("HTTPS", format!("{i} . alpn=h3")),
            16 => ("HTTPS", format!("1 {target} alpn=h2 port={i}")),
            17 => ("SVCB", format!("{} {target}", i % 2)),
            18 => ("CAA", format!("0 issue \"ca{i}.test\"")),
            19 => ("PTR", target),
            20 => ("NAPTR", format!("1 {i} \"S\" \"SIP+D2U\" \"\" {target}")),
            _ => ("TYPE4711", format!("\\# 2 00{i:02x}")),
        };
        self.record(rng, &owner, rtype, &rdata);
    }

    /// NS with glue in some cases, names of servers in the zone, beside it, or nowhere; DS in some; occluded data.
    fn delegation(&mut self, rng: &mut Rng, owner: &str, i: usize) {
        if owner == "@" {
            return;
        }
        for server in 0..=rng.below(2) {
            let name = match rng.below(4) {
                0 => self.target(rng),
                1 => "ns".to_string(),
                _ => format!("ns{server}.{owner}"),
            };
            if self.record(rng, owner, "NS", &name) && !name.ends_with('.') && !rng.one_in(4) {
                let (rtype, address) = GLUE[rng.below(2)];
                self.record(rng, &name, rtype, address);
            }
        }
        let key = owner.to_lowercase();
        // BIND takes a DS at a name server of the zone for one at its apex, and refuses the zone
        let fits = !matches!(key.as_str(), "ns" | "ns.b");
        if rng.one_in(3) && fits && self.types.get(&key).is_some_and(|t| t.contains("NS")) {
            self.record(rng, owner, "DS", DS);
        }
        if rng.one_in(3) {
            self.record(rng, &format!("occluded.{owner}"), "TXT", &format!("o{i}"));
        }
    }

    /// Adds a record unless a server would refuse to load it: CNAME or DNAME beside what excludes it, names below a DNAME.
    fn record(&mut self, rng: &mut Rng, owner: &str, rtype: &'static str, rdata: &str) -> bool {
        let key = owner.to_lowercase();
        let here = self.types.get(&key).cloned().unwrap_or_default();
        let cname = here.contains("CNAME") || (rtype == "CNAME" && !here.is_empty());
        let twice = matches!(rtype, "CNAME" | "DNAME") && here.contains(rtype);
        let both = key != "@"
            && (rtype == "NS" && here.contains("DNAME") || rtype == "DNAME" && here.contains("NS"));
        let star = key.starts_with("*") && rtype == "NS";
        let ds = rtype == "DS" && !here.contains("NS");
        let below =
            |above: &str, name: &str| above == "@" && name != "@" || name.ends_with(&format!(".{above}"));
        let under = self.types.iter().any(|(o, t)| t.contains("DNAME") && below(o, &key));
        let over = rtype == "DNAME" && self.types.keys().any(|o| below(&key, o));
        if cname || twice || both || star || ds || under || over {
            return false;
        }
        if self.absolute(owner).len() > 220 {
            return false;
        }
        self.types.entry(key.clone()).or_default().insert(rtype);
        let ttl = *self.ttls.entry((key, rtype)).or_insert([60, 300, 3600][rng.below(3)]);
        self.text.push_str(&format!("{owner} {ttl} {rtype} {rdata}\n"));
        self.names.push(self.absolute(owner));
        if let Some(target) =
            rdata.split(' ').next_back().filter(|_| matches!(rtype, "CNAME" | "DNAME" | "NS" | "MX"))
        {
            self.names.push(self.absolute(target));
        }
        true
    }
}

const GLUE: [(&str, &str); 2] = [("A", "192.0.2.254"), ("AAAA", "2001:db8::fe")];
