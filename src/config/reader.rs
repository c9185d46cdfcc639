//! A typed reader over TOML with spans. It never stops: each bad field is noted with its place, and reading goes on.

use crate::problem::{Place, Problem, Problems, Severity};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    ops::{Bound, RangeInclusive},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};
use toml::de::{DeTable, DeValue};

/// A file is read up to this size; a real one has some kilobytes.
const MAX_FILE: u64 = 16 << 20;

/// What a field is, or what is wrong with it.
pub(crate) type Parsed<T> = Result<T, String>;

/// What has been found so far: problems, and where each field stands.
#[derive(Default)]
pub(crate) struct Log {
    problems: RefCell<Vec<Problem>>,
    places: RefCell<BTreeMap<String, Place>>,
    failed: RefCell<BTreeSet<String>>,
    declared: RefCell<BTreeMap<String, Place>>,
}

impl Log {
    /// Notes an error at a place.
    pub(crate) fn error(&self, place: Option<Place>, field: &str, message: impl Into<String>) {
        self.failed.borrow_mut().insert(field.into());
        self.note(place, field, message.into(), Severity::Error);
    }

    /// Notes that a field could not be read, for a reason that is noted elsewhere.
    pub(crate) fn fail(&self, field: &str) {
        self.failed.borrow_mut().insert(field.into());
    }

    /// Notes an error of a field that was read before.
    pub(crate) fn error_at(&self, field: &str, message: impl Into<String>) {
        self.note(self.place_of(field), field, message.into(), Severity::Error);
    }

    /// Notes a warning on a field that was read before.
    pub(crate) fn warn_at(&self, field: &str, message: impl Into<String>) {
        self.note(self.place_of(field), field, message.into(), Severity::Warning);
    }

    fn note(&self, place: Option<Place>, field: &str, message: String, severity: Severity) {
        self.problems.borrow_mut().push(Problem { place, field: field.into(), message, severity });
    }

    /// Whether this field, or one below it, could not be read: what follows from it is then not worth a line.
    pub(crate) fn failed(&self, field: &str) -> bool {
        let failed = self.failed.borrow();
        let below = |f: &String| f[field.len()..].is_empty() || f[field.len()..].starts_with(['.', '[']);
        failed
            .range::<str, _>((Bound::Included(field), Bound::Unbounded))
            .take_while(|f| f.starts_with(field))
            .any(below)
    }

    /// Where a field stands; the nearest one around it when it does not stand anywhere.
    pub(crate) fn place_of(&self, field: &str) -> Option<Place> {
        let places = self.places.borrow();
        let mut field = field;
        loop {
            if let Some(place) = places.get(field) {
                return Some(place.clone());
            }
            field = &field[..field.rfind(['.', '['])?];
        }
    }

    /// Notes that an object is declared here; where it was declared before, if it was.
    pub(crate) fn declared(&self, object: &Value<'_>) -> Option<Place> {
        let mut declared = self.declared.borrow_mut();
        let first = declared.get(&object.path).cloned();
        declared.entry(object.path.clone()).or_insert_with(|| object.place.clone());
        first
    }

    fn remember(&self, field: &str, place: Place) {
        self.places.borrow_mut().insert(field.into(), place);
    }

    /// Everything found, in order.
    pub(crate) fn into_problems(self) -> Problems {
        Problems(self.problems.into_inner()).sorted()
    }
}

/// One file's text, which knows its lines.
pub(crate) struct Source {
    pub(crate) file: Arc<PathBuf>,
    text: String,
    starts: Vec<usize>,
}

impl Source {
    /// Reads a file; an unreadable one is a problem.
    pub(crate) fn read(path: &Path, log: &Log) -> Option<Source> {
        let file = Arc::new(path.to_path_buf());
        let whole = |message: String| {
            log.error(Some(Place { file: file.clone(), line: 0, column: 0 }), "", message);
            None
        };
        match std::fs::metadata(path) {
            Ok(meta) if meta.len() > MAX_FILE => {
                return whole(format!("has {} bytes; at most {MAX_FILE} are read", meta.len()));
            }
            Ok(_) => {}
            Err(e) => return whole(format!("cannot be read: {e}")),
        }
        match std::fs::read_to_string(path) {
            Ok(text) => Some(Source::new(file, text)),
            Err(e) => whole(format!("cannot be read: {e}")),
        }
    }

    /// A text that is not from a file.
    pub(crate) fn of(text: String) -> Source {
        Source::new(Arc::default(), text)
    }

    fn new(file: Arc<PathBuf>, text: String) -> Source {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Source { file, text, starts }
    }

    /// The place of a byte.
    fn place(&self, at: usize) -> Place {
        let line = self.starts.partition_point(|&s| s <= at).max(1);
        let start = self.starts[line - 1];
        let column = self.text.get(start..at).map_or(0, |s| s.chars().count() + 1);
        Place { file: self.file.clone(), line: line as u32, column: column as u32 }
    }

    /// Parses the text. None, with the problems noted, when it is no TOML.
    pub(crate) fn table(&self, log: &Log) -> Option<DeTable<'_>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for e in &errors {
            let place = self.place(e.span().map_or(0, |s| s.start));
            log.error(Some(place), "", format!("is not TOML: {}", e.message().replace('\n', "; ")));
        }
        errors.is_empty().then(|| table.into_inner())
    }
}

/// A value with its path and its place.
#[derive(Clone)]
pub(crate) struct Value<'a> {
    pub(crate) path: String,
    pub(crate) place: Place,
    raw: &'a DeValue<'a>,
    source: &'a Source,
    log: &'a Log,
}

impl<'a> Value<'a> {
    fn kind(&self) -> &'static str {
        match self.raw {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        }
    }

    fn wrong<T>(&self, want: &str) -> Parsed<T> {
        Err(format!("is {}; give {want}", self.kind()))
    }

    /// Notes what is wrong with this value.
    pub(crate) fn error(&self, message: impl Into<String>) {
        self.log.error(Some(self.place.clone()), &self.path, message);
    }

    pub(crate) fn is_string(&self) -> bool {
        self.raw.is_str()
    }

    pub(crate) fn is_table(&self) -> bool {
        self.raw.is_table()
    }

    pub(crate) fn is_integer(&self) -> bool {
        self.raw.is_integer()
    }

    /// A string.
    pub(crate) fn string(&self) -> Parsed<&'a str> {
        self.raw.as_str().map_or_else(|| self.wrong("a string"), Ok)
    }

    /// A string of 1 to `max` bytes without control characters.
    pub(crate) fn text(&self, max: usize) -> Parsed<String> {
        let s = self.string()?;
        if s.len() > max {
            return Err(format!("has {} bytes; at most {max} are allowed", s.len()));
        }
        if s.chars().any(char::is_control) {
            return Err("contains a control character; take it out".into());
        }
        Ok(s.into())
    }

    /// A string that another type knows how to read.
    pub(crate) fn parse<T: FromStr>(&self) -> Parsed<T>
    where
        T::Err: Display,
    {
        let s = self.string()?;
        s.parse().map_err(|e| format!("\"{s}\" {e}"))
    }

    /// A string that another type knows how to read, described for people.
    pub(crate) fn parse_as<T: FromStr>(&self, what: &str) -> Parsed<T> {
        let s = self.string()?;
        s.parse().map_err(|_| format!("\"{s}\" is not {what}"))
    }

    /// A boolean.
    pub(crate) fn boolean(&self) -> Parsed<bool> {
        self.raw.as_bool().map_or_else(|| self.wrong("true or false"), Ok)
    }

    /// The same value under another path: its key had several spellings.
    pub(crate) fn renamed(mut self, path: String) -> Value<'a> {
        self.log.remember(&path, self.place.clone());
        self.path = path;
        self
    }

    /// An integer in a range; `unit` is shown in brackets.
    pub(crate) fn integer<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>, unit: &str) -> Parsed<T> {
        let mut allowed = format!("{} to {}", range.start(), range.end());
        if !unit.is_empty() {
            allowed += &format!(" ({unit})");
        }
        let Some(digits) = self.raw.as_integer() else {
            return self.wrong(&format!("an integer from {allowed}"));
        };
        let number = u64::from_str_radix(digits.as_str(), digits.radix()).ok().filter(|n| range.contains(n));
        number
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(|| format!("{digits} is out of range; use {allowed}"))
    }

    /// One of some words; `_` and `-` are alike.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Parsed<T> {
        let known = || words.iter().map(|(w, _)| format!("\"{w}\"")).collect::<Vec<_>>().join(", ");
        let Some(s) = self.raw.as_str() else {
            return self.wrong(&format!("one of {}", known()));
        };
        let alike = |w: &str| w.replace('_', "-") == s.replace('_', "-");
        words
            .iter()
            .find(|(w, _)| alike(w))
            .map(|(_, t)| *t)
            .ok_or_else(|| format!("\"{s}\" is not known; use one of {}", known()))
    }

    /// The elements of an array.
    pub(crate) fn array(&self) -> Parsed<Vec<Value<'a>>> {
        let Some(array) = self.raw.as_array() else {
            return self.wrong("an array, as [ ... ]");
        };
        let element = |(i, v): (usize, &'a toml::Spanned<DeValue<'a>>)| {
            let (path, place) = (format!("{}[{i}]", self.path), self.source.place(v.span().start));
            self.log.remember(&path, place.clone());
            Value { path, place, raw: v.get_ref(), source: self.source, log: self.log }
        };
        Ok(array.iter().enumerate().map(element).collect())
    }

    /// Each element of an array; what cannot be read is noted and left out.
    pub(crate) fn each<T>(&self, parse: impl Fn(&Value<'a>) -> Parsed<T>) -> Parsed<Vec<T>> {
        let keep = |v: Value<'a>| parse(&v).map_err(|message| v.error(message)).ok();
        Ok(self.array()?.into_iter().filter_map(keep).collect())
    }

    /// A table with these fields; all others are noted as unknown.
    pub(crate) fn table(&self, fields: &'static [&'static str]) -> Parsed<Table<'a>> {
        let table = self.entries()?;
        table.sweep(fields);
        Ok(table)
    }

    /// A table whose keys are names.
    pub(crate) fn entries(&self) -> Parsed<Table<'a>> {
        match self.raw.as_table() {
            Some(raw) => Ok(Table {
                path: self.path.clone(),
                place: self.place.clone(),
                raw,
                source: self.source,
                log: self.log,
            }),
            None => self.wrong("a table"),
        }
    }
}

/// A table with its path and its place.
pub(crate) struct Table<'a> {
    pub(crate) path: String,
    pub(crate) place: Place,
    raw: &'a DeTable<'a>,
    source: &'a Source,
    log: &'a Log,
}

impl<'a> Table<'a> {
    /// The table of a whole file.
    pub(crate) fn root(raw: &'a DeTable<'a>, source: &'a Source, log: &'a Log) -> Table<'a> {
        Table {
            path: String::new(),
            place: Place { file: source.file.clone(), line: 0, column: 0 },
            raw,
            source,
            log,
        }
    }

    pub(crate) fn log(&self) -> &'a Log {
        self.log
    }

    /// The path of a field of this table.
    pub(crate) fn child(&self, field: &str) -> String {
        join(&self.path, field)
    }

    /// Whether a field is given.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.raw.contains_key(field)
    }

    /// A field, when it is given.
    pub(crate) fn get(&self, field: &str) -> Option<Value<'a>> {
        let (key, value) = self.raw.get_key_value(field)?;
        // A table is found by its key, a value by itself.
        let at = if value.get_ref().is_table() { key.span().start } else { value.span().start };
        let (path, place) = (self.child(field), self.source.place(at));
        self.log.remember(&path, place.clone());
        Some(Value { path, place, raw: value.get_ref(), source: self.source, log: self.log })
    }

    /// All fields, for tables whose keys are names.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.raw.keys().filter_map(|k| Some((k.get_ref().as_ref(), self.get(k.get_ref())?)))
    }

    /// A field that may be left out; none also when it is bad, and then that is noted.
    pub(crate) fn opt<T>(&self, field: &str, parse: impl FnOnce(&Value<'a>) -> Parsed<T>) -> Option<T> {
        let value = self.get(field)?;
        parse(&value).map_err(|message| value.error(message)).ok()
    }

    /// A field with a default.
    pub(crate) fn or<T>(&self, field: &str, default: T, parse: impl FnOnce(&Value<'a>) -> Parsed<T>) -> T {
        self.opt(field, parse).unwrap_or(default)
    }

    /// A field that must be there.
    pub(crate) fn need<T>(
        &self,
        field: &str,
        give: &str,
        parse: impl FnOnce(&Value<'a>) -> Parsed<T>,
    ) -> Option<T> {
        if !self.has(field) {
            let place = self.place.clone();
            self.log.error(Some(place), &self.child(field), format!("is missing; give {give}"));
        }
        self.opt(field, parse)
    }

    /// Notes every field that is not among the known ones.
    pub(crate) fn sweep(&self, fields: &[&str]) {
        for (name, value) in self.all().filter(|(name, _)| !fields.contains(name)) {
            // The key is at fault, so its place is the key's.
            let key = self.raw.get_key_value(name).map(|(k, _)| self.source.place(k.span().start));
            let message = match nearest(name, fields) {
                Some(near) => format!("unknown field; did you mean \"{near}\"?"),
                None => format!("unknown field; known here are {}", fields.join(", ")),
            };
            self.log.error(key, &value.path, message);
        }
    }
}

/// `path.field`, quoted where TOML would quote it.
pub(crate) fn join(path: &str, field: &str) -> String {
    let bare = !field.is_empty() && field.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let dot = if path.is_empty() { "" } else { "." };
    if bare { format!("{path}{dot}{field}") } else { format!("{path}{dot}\"{field}\"") }
}

/// The known word that is nearest to what was written, if it is near enough to be meant.
fn nearest<'f>(name: &str, fields: &[&'f str]) -> Option<&'f str> {
    let limit = (name.len() / 3).clamp(1, 3);
    fields.iter().map(|f| (distance(name, f), *f)).filter(|(d, _)| *d <= limit).min().map(|(_, f)| f)
}

/// Edits (insert, delete, replace, swap of neighbours) from one word to another.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_the_word_that_was_meant() {
        let fields = ["ttl", "names", "endpoint", "min_answers"];
        assert_eq!(nearest("tll", &fields), Some("ttl"));
        assert_eq!(nearest("endpiont", &fields), Some("endpoint"));
        assert_eq!(nearest("min-answers", &fields), Some("min_answers"));
        assert_eq!(nearest("colour", &fields), None);
    }

    #[test]
    fn places_count_lines_and_characters() {
        let source = Source::new(Arc::new("f".into()), "a = 1\nüb = 2\n".into());
        let place = |at| (source.place(at).line, source.place(at).column);
        assert_eq!(
            (place(0), place(4), place(6), place(9), place(99)),
            ((1, 1), (1, 5), (2, 1), (2, 3), (3, 0))
        );
    }

    #[test]
    fn what_failed_covers_what_is_below_it() {
        let log = Log::default();
        log.error(None, "service.web.endpoint.fra[0]", "");
        assert!(log.failed("service.web.endpoint") && log.failed("service.web.endpoint.fra"));
        assert!(
            !log.failed("service.we")
                && !log.failed("service.web.endpoint.fr")
                && !log.failed("service.web.ttl")
        );
    }
}
