//! One file's text, which knows its lines.

use crate::{log::Log, problem::Place};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use toml::de::DeTable;

/// A file is read up to this size; a real one has some kilobytes.
const MAX_FILE: u64 = 16 << 20;

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
    pub(crate) fn place(&self, at: usize) -> Place {
        let line = self.starts.partition_point(|&s| s <= at).max(1);
        let start = self.starts[line - 1];
        let column = self.text.get(start..at).map_or(0, |s| s.chars().count() + 1);
        Place { file: self.file.clone(), line: line as u32, column: column as u32 }
    }

    /// Parses the text. None, with the problems noted, when it is no TOML.
    pub(crate) fn table(&self, log: &Log) -> Option<DeTable<'_>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for e in &errors {
            let span = e.span().unwrap_or_default();
            let at = self.text.get(span.clone()).filter(|t| !t.is_empty() && !t.contains('\n'));
            let at = at.map(|t| format!(" at `{t}`")).unwrap_or_default();
            let message = e.message().replace('\n', "; ");
            log.error(Some(self.place(span.start)), "", format!("is not TOML: {message}{at}"));
        }
        errors.is_empty().then(|| table.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let source = Source::new(Arc::new("f".into()), "a = 1\nüb = 2\n".into());
        let place = |at| (source.place(at).line, source.place(at).column);
        assert_eq!(
            (place(0), place(4), place(6), place(9), place(99)),
            ((1, 1), (1, 5), (2, 1), (2, 3), (3, 0))
        );
    }
}
