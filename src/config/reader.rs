//! A typed reader over TOML with spans. It never stops: each bad field is noted with its place, and reading goes on.

use crate::{log::Log, nearest::nearest, problem::Place, source::Source};
use std::{fmt::Display, ops::RangeInclusive, str::FromStr};
use toml::de::{DeTable, DeValue};

/// What a field is, or what is wrong with it.
pub(crate) type Parsed<T> = Result<T, String>;

/// A value is no good because of something inside it that has been noted already.
pub(crate) const NOTED: &str = "";

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

    /// Notes what is wrong with this value; [`NOTED`] adds no line of its own.
    pub(crate) fn error(&self, message: impl Into<String>) {
        match message.into() {
            message if message == NOTED => self.log.fail(&self.path),
            message => self.log.error(Some(self.place.clone()), &self.path, message),
        }
    }

    pub(crate) fn is_string(&self) -> bool {
        self.raw.is_str()
    }

    pub(crate) fn is_array(&self) -> bool {
        self.raw.is_array()
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
        let Some(s) = self.raw.as_str() else { return self.wrong(what) };
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

    /// A number in a range, whole or not.
    pub(crate) fn decimal(&self, range: RangeInclusive<f64>, unit: &str) -> Parsed<f64> {
        let allowed = format!("{} to {} ({unit})", range.start(), range.end());
        let text = self.raw.as_float().map(|f| f.as_str().replace('_', ""));
        let whole = || self.raw.as_integer().map(|i| i.as_str().to_owned());
        let Some(text) = text.or_else(whole) else { return self.wrong(&format!("a number from {allowed}")) };
        let number = text.parse().ok().filter(|n| range.contains(n));
        number.ok_or_else(|| format!("{text} is out of range; use {allowed}"))
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
