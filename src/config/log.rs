//! What has been found so far: problems, and where each field stands.

use crate::{
    problem::{Place, Problem, Problems, Severity},
    reader::Value,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

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

    /// Whether this field is written somewhere.
    pub(crate) fn given(&self, field: &str) -> bool {
        self.places.borrow().contains_key(field)
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

    pub(crate) fn remember(&self, field: &str, place: Place) {
        self.places.borrow_mut().insert(field.into(), place);
    }

    /// Everything found, in order.
    pub(crate) fn into_problems(self) -> Problems {
        Problems(self.problems.into_inner()).sorted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
