//! Standard zone files (RFC 1035 §5) in and out.
//!
//! [`load`] reads a file with its `$INCLUDE`s and reports all mistakes at once, each with file, line and remedy.
//! Differing TTLs within an RRset become the smallest (RFC 2181 §5.2). Every type can be written as RFC 3597 has it.

mod lexer;
mod rare;
mod rdata;
mod svcb;

pub use rdata::{rdata_text, type_name, type_number};

use lexer::{Entry, Lexer, Stop, Token};
use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use zonekeeper_core::{
    name::Name,
    zone::{Key, RrSet, Zone, rtype},
};

/// Mistakes that are reported before reading stops.
const MAX_ERRORS: usize = 20;
/// `$INCLUDE`s inside each other.
const MAX_DEPTH: usize = 8;

/// One mistake in a zone file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {message}", file.display())]
pub struct ZoneFileError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// From 1; 0 for the file as a whole.
    pub line: u32,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// All mistakes in a zone file, at most twenty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneFileErrors(pub Vec<ZoneFileError>);

impl fmt::Display for ZoneFileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            write!(f, "{}{e}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ZoneFileErrors {}

/// Reads a zone file into RRsets in canonical order, checked as a whole zone: SOA and NS at the apex, every name inside,
/// no CNAME beside other records.
pub fn load(path: &Path, origin: &Name) -> Result<Vec<RrSet>, ZoneFileErrors> {
    let mut loader = Loader { includes: true, ..Loader::new(origin) };
    match File::open(path) {
        Ok(file) => loader.read(BufReader::with_capacity(1 << 16, file), path, 0),
        Err(e) => loader.error(path, 0, format!("cannot be opened: {e}")),
    }
    loader.finish(path)
}

/// Reads zone text that stands in memory, which `path` names in messages. It may come from anywhere, so that `$INCLUDE` is
/// refused: it would show files of this machine.
pub fn parse(text: &[u8], path: &Path, origin: &Name) -> Result<Vec<RrSet>, ZoneFileErrors> {
    let mut loader = Loader::new(origin);
    loader.read(text, path, 0);
    loader.finish(path)
}

/// Makes an RRset from its parts in presentation form, as the API gives them. Names in RDATA without a trailing dot are
/// relative to `origin`; so is `name`, and `@` is the origin.
pub fn parse_rrset(
    origin: &Name,
    name: &str,
    rtype: &str,
    ttl: u32,
    rdata: &[impl AsRef<str>],
) -> Result<RrSet, String> {
    let number = type_number(rtype).ok_or_else(|| format!("type {rtype:?} is unknown; TYPE123 names any"))?;
    let owner = rdata::name(&Token { raw: name.as_bytes(), quoted: false }, origin.wire())?;
    let mut all = Vec::with_capacity(rdata.len());
    for text in rdata {
        let mut entry = Entry::default();
        let line = text.as_ref().replace(['\n', '\r'], " ");
        match Lexer::new(line.as_bytes()).next(&mut entry) {
            Ok(()) => {
                let mut rdata = Vec::new();
                rdata::parse(number, &entry.tokens(), origin.wire(), &mut rdata)?;
                all.push(rdata.into());
            }
            Err(Stop::Bad(_, e)) => return Err(e),
            Err(_) => return Err("a record is empty".into()),
        }
    }
    let set = RrSet::new(owner, number, ttl, all).map_err(|e| e.to_string())?;
    if set.name.is_within(origin) {
        Ok(set)
    } else {
        Err(format!("{} is outside the zone {origin}", set.name))
    }
}

/// An RRset in presentation form, one line for each record, absolute names.
pub fn to_text(set: &RrSet) -> String {
    let line = |r: &[u8]| {
        format!("{} {} IN {} {}\n", set.name, set.ttl, type_name(set.rtype), rdata_text(set.rtype, r))
    };
    set.rdata.iter().map(|r| line(r)).collect()
}

/// Writes a whole zone as a zone file, the SOA first.
pub fn export(zone: &Zone, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "$ORIGIN {}", zone.origin())?;
    if let Some(soa) = zone.soa() {
        out.write_all(to_text(&soa).as_bytes())?;
    }
    for set in zone.iter().filter(|s| s.rtype != rtype::SOA) {
        match set.rtype {
            rtype::RRSIG => export_signatures(zone, &set, out)?,
            _ => out.write_all(to_text(&set).as_bytes())?,
        }
    }
    Ok(())
}

/// Signatures are no RRset of their own: each has the TTL of what it covers (RFC 4034 §3).
fn export_signatures(zone: &Zone, set: &RrSet, out: &mut impl Write) -> io::Result<()> {
    for rdata in &set.rdata {
        let covered = rdata.first_chunk::<2>().map(|b| u16::from_be_bytes(*b));
        let ttl = covered.and_then(|t| zone.get(&set.name, t)).map_or(set.ttl, |s| s.ttl);
        let one = RrSet { ttl, rdata: vec![rdata.clone()], ..set.clone() };
        out.write_all(to_text(&one).as_bytes())?;
    }
    Ok(())
}

/// One RRset, or a part of it, as it was read.
struct Pending {
    /// The first bytes of the key, as a number that sorts as they do: most comparisons end here.
    prefix: u64,
    /// Where the key stands in [`Loader::keys`].
    key: (usize, u16),
    set: RrSet,
    file: Arc<Path>,
    line: u32,
}

struct Loader {
    zone: Name,
    /// Where relative names belong, in wire form.
    origin: Vec<u8>,
    /// `$TTL`.
    ttl: Option<u32>,
    /// The last TTL that was stated (RFC 1035 §5.1).
    last_ttl: Option<u32>,
    owner: Option<Name>,
    /// RDATA of the record that is being read.
    rdata: Vec<u8>,
    pending: Vec<Pending>,
    /// The keys of what is pending, one after the other.
    keys: Vec<u8>,
    errors: Vec<ZoneFileError>,
    key: Key,
    /// The apex has signatures.
    signed: bool,
    /// `$INCLUDE` is followed.
    includes: bool,
}

impl Loader {
    fn new(zone: &Name) -> Loader {
        Loader {
            zone: zone.clone(),
            origin: zone.wire().to_vec(),
            ttl: None,
            last_ttl: None,
            owner: None,
            rdata: Vec::new(),
            pending: Vec::new(),
            keys: Vec::new(),
            errors: Vec::new(),
            key: Key::default(),
            signed: false,
            includes: false,
        }
    }

    fn error(&mut self, file: &Path, line: u32, message: String) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(ZoneFileError { file: file.to_path_buf(), line, message });
        }
    }

    fn read(&mut self, reader: impl BufRead, path: &Path, depth: usize) {
        let file: Arc<Path> = path.into();
        let (mut lexer, mut entry) = (Lexer::new(reader), Entry::default());
        while self.errors.len() < MAX_ERRORS {
            match lexer.next(&mut entry) {
                Ok(()) => {
                    if let Err(e) = self.entry(&entry, &file, depth) {
                        self.error(path, entry.line, e);
                    }
                }
                Err(Stop::Bad(line, e)) => self.error(path, line, e),
                Err(Stop::Io(e)) => return self.error(path, 0, format!("cannot be read: {e}")),
                Err(Stop::End) => return,
            }
        }
    }

    fn entry(&mut self, entry: &Entry, file: &Arc<Path>, depth: usize) -> Result<(), String> {
        let tokens = entry.tokens();
        match tokens.first() {
            Some(t) if !entry.indented && !t.quoted && t.raw.starts_with(b"$") => {
                self.directive(&tokens, file, depth)
            }
            _ => self.record(&tokens, entry, file),
        }
    }

    fn directive(&mut self, tokens: &[Token<'_>], file: &Path, depth: usize) -> Result<(), String> {
        let word = tokens[0].text().to_ascii_uppercase();
        match (word.as_str(), &tokens[1..]) {
            ("$ORIGIN", [name]) => self.origin = rdata::cased_name(name, &self.origin)?,
            ("$TTL", [ttl]) => {
                self.ttl = Some(
                    rdata::seconds(&ttl.text()).ok_or_else(|| format!("{:?} is not a TTL", ttl.text()))?,
                );
            }
            ("$INCLUDE", _) if !self.includes => {
                return Err("$INCLUDE is not followed here; put everything into one text".into());
            }
            ("$INCLUDE", [path, origin @ ..]) if origin.len() <= 1 => {
                self.include(path, origin.first(), file, depth)?
            }
            ("$ORIGIN" | "$TTL" | "$INCLUDE", _) => {
                return Err(format!("{word} has the wrong number of values"));
            }
            _ => return Err(format!("{word} is not known; write the records out")),
        }
        Ok(())
    }

    /// Origin and owner are the including file's again afterwards (RFC 1035 §5.1).
    fn include(
        &mut self,
        path: &Token<'_>,
        origin: Option<&Token<'_>>,
        file: &Path,
        depth: usize,
    ) -> Result<(), String> {
        if depth >= MAX_DEPTH {
            return Err(format!(
                "$INCLUDE is nested more than {MAX_DEPTH} deep; does a file include itself?"
            ));
        }
        let text = lexer::unescape(path.raw)?;
        let name = file.parent().unwrap_or(Path::new("")).join(String::from_utf8_lossy(&text).as_ref());
        let opened = File::open(&name).map_err(|e| format!("cannot open {}: {e}", name.display()))?;
        let inner = origin.map(|o| rdata::cased_name(o, &self.origin)).transpose()?;
        let outer = (self.origin.clone(), self.owner.clone());
        if let Some(inner) = inner {
            self.origin = inner;
        }
        self.read(BufReader::new(opened), &name, depth + 1);
        (self.origin, self.owner) = outer;
        Ok(())
    }

    fn record(&mut self, tokens: &[Token<'_>], entry: &Entry, file: &Arc<Path>) -> Result<(), String> {
        let mut rest = tokens;
        if !entry.indented {
            self.owner = Some(rdata::name(&tokens[0], &self.origin)?);
            rest = &tokens[1..];
        }
        let (mut ttl, mut class, mut number) = (None, false, None);
        while let (Some((t, more)), None) = (rest.split_first(), number) {
            let text = t.text();
            if ttl.is_none() && text.starts_with(|c: char| c.is_ascii_digit()) {
                ttl = Some(rdata::seconds(&text).ok_or_else(|| format!("{text:?} is not a TTL"))?);
            } else if !class && ["IN", "CLASS1"].iter().any(|c| c.eq_ignore_ascii_case(&text)) {
                class = true;
            } else if ["CH", "HS"].iter().any(|c| c.eq_ignore_ascii_case(&text)) {
                return Err(format!("class {text} is not served; only IN is"));
            } else {
                number = Some(
                    type_number(&text)
                        .ok_or_else(|| format!("{text:?} is not a record type; TYPE123 names any"))?,
                );
            }
            rest = more;
        }
        let number = number.ok_or("the record has no type")?;
        let owner = self.owner.take().ok_or("the first record has no owner name")?;
        let mut rdata = std::mem::take(&mut self.rdata);
        rdata.clear();
        let added = rdata::parse(number, rest, &self.origin, &mut rdata)
            .map_err(|e| format!("{}: {e}", type_name(number)))
            .and_then(|()| self.ttl_of(ttl, number, &rdata))
            .and_then(|ttl| self.add(&owner, number, ttl, &rdata, entry.line, file));
        (self.owner, self.rdata) = (Some(owner), rdata);
        added
    }

    /// Stated, else `$TTL`, else the last one stated; where there is none yet the minimum of the SOA, as BIND takes
    /// it.
    fn ttl_of(&mut self, stated: Option<u32>, number: u16, rdata: &[u8]) -> Result<u32, String> {
        let minimum =
            rdata.last_chunk::<4>().filter(|_| number == rtype::SOA).map(|m| u32::from_be_bytes(*m));
        self.last_ttl = stated.or(self.last_ttl).or(minimum);
        stated
            .or(self.ttl)
            .or(self.last_ttl)
            .ok_or_else(|| "no TTL is known here; begin the file with $TTL".into())
    }

    fn add(
        &mut self,
        name: &Name,
        rtype: u16,
        ttl: u32,
        rdata: &[u8],
        line: u32,
        file: &Arc<Path>,
    ) -> Result<(), String> {
        let rdata: Box<[u8]> = rdata.into();
        if let Some(last) = self.pending.last_mut()
            && last.set.rtype == rtype
            && last.set.name == *name
        {
            last.set.ttl = last.set.ttl.min(ttl);
            last.set.rdata.push(rdata);
            return Ok(());
        }
        if !name.is_within(&self.zone) || !self.key.set(name.wire(), self.zone.wire().len()) {
            return Err(format!("{name} is outside the zone {}", self.zone));
        }
        let set = RrSet { name: name.clone(), rtype, ttl, rdata: vec![rdata] };
        let key = self.key.bytes();
        let mut prefix = [0; 8];
        let known = key.len().min(8);
        prefix[..known].copy_from_slice(&key[..known]);
        let prefix = u64::from_be_bytes(prefix);
        let at = (self.keys.len(), key.len() as u16);
        self.keys.extend_from_slice(key);
        self.pending.push(Pending { prefix, key: at, set, file: file.clone(), line });
        Ok(())
    }

    /// Puts parts together, sorts, and applies the rules of a whole zone.
    fn finish(mut self, path: &Path) -> Result<Vec<RrSet>, ZoneFileErrors> {
        let mut pending = std::mem::take(&mut self.pending);
        let keys = std::mem::take(&mut self.keys);
        let key = |p: &Pending| &keys[p.key.0..p.key.0 + usize::from(p.key.1)];
        let order = |p: &Pending, q: &Pending| {
            p.prefix.cmp(&q.prefix).then_with(|| (key(p), p.set.rtype).cmp(&(key(q), q.set.rtype)))
        };
        if !pending.is_sorted_by(|p, q| order(p, q).is_lt()) {
            pending.sort_by(order);
        }
        let mut sets: Vec<Pending> = Vec::with_capacity(pending.len());
        for p in pending {
            match sets.last_mut().filter(|l| key(l) == key(&p) && l.set.rtype == p.set.rtype) {
                Some(last) => {
                    last.set.ttl = last.set.ttl.min(p.set.ttl);
                    last.set.rdata.extend(p.set.rdata);
                }
                None => sets.push(p),
            }
        }
        self.signed = sets.iter().any(|p| p.key.1 == 0 && p.set.rtype == rtype::RRSIG);
        for names in sets.chunk_by_mut(|a, b| a.prefix == b.prefix && key(a) == key(b)) {
            self.check_name(names);
        }
        for (rtype, what) in [(rtype::SOA, "SOA"), (rtype::NS, "NS")] {
            let apex = sets.iter().take_while(|p| p.key.1 == 0);
            if apex.filter(|p| p.set.rtype == rtype).count() == 0 && self.errors.is_empty() {
                let message = format!("the zone {} has no {what} at its apex; add one", self.zone);
                self.error(path, 0, message);
            }
        }
        match self.errors.is_empty() {
            true => Ok(sets.into_iter().map(|p| p.set).collect()),
            false => Err(ZoneFileErrors(self.errors)),
        }
    }

    /// The rules for the RRsets of one name.
    fn check_name(&mut self, sets: &mut [Pending]) {
        let cname = sets.iter().any(|p| p.set.rtype == rtype::CNAME);
        let alias = sets.iter().any(|p| p.set.rtype == rtype::ALIAS);
        for p in sets {
            p.set.rdata.sort_unstable();
            p.set.rdata.dedup();
            p.set.rdata.shrink_to_fit();
            let name = &p.set.name;
            let alone = matches!(p.set.rtype, rtype::CNAME | rtype::RRSIG | rtype::NSEC);
            let message = match p.set.check() {
                Err(e) => e.to_string(),
                Ok(()) if cname && !alone => {
                    format!(
                        "{name} has {} beside a CNAME, which stands alone (RFC 1034 §3.6.2)",
                        type_name(p.set.rtype)
                    )
                }
                Ok(()) if alias && matches!(p.set.rtype, rtype::A | rtype::AAAA) => {
                    format!("{name} has {} beside an ALIAS, which brings addresses", type_name(p.set.rtype))
                }
                Ok(()) if p.set.rtype == rtype::ALIAS && self.signed => {
                    format!("{name} has an ALIAS in a signed zone; its answers would have no signature")
                }
                Ok(()) if p.set.rtype == rtype::SOA && *name != self.zone => {
                    format!("{name} has an SOA below the apex")
                }
                Ok(()) if p.set.rtype == rtype::DS && *name == self.zone => {
                    format!("{name} has a DS, which belongs to the parent")
                }
                Ok(()) => continue,
            };
            self.error(&p.file.clone(), p.line, message);
        }
    }
}
