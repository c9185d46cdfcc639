//! Tables and words.

use std::io::{self, Write};
use zonekeeper_core::model::Family;

/// A table: columns as wide as their widest cell, two spaces between.
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table, or one line when it has no rows.
    pub(crate) fn print(&self, out: &mut dyn Write, none: &str) -> io::Result<()> {
        if self.rows.is_empty() {
            return writeln!(out, "{none}");
        }
        let width = |i: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count());
            cells.chain(self.head.get(i).map(|h| h.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells: Vec<String> = cells.zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        writeln!(out, "{}", line(&mut self.head.iter().copied()))?;
        for row in &self.rows {
            writeln!(out, "{}", line(&mut row.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

/// A value or a dash.
pub(crate) fn or_dash(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".into(), |v| v.to_string())
}

/// Yes or a dash: tables are read by their exceptions.
pub(crate) fn tick(yes: bool) -> String {
    if yes { "yes".into() } else { "-".into() }
}

/// Names in a row, or a dash.
pub(crate) fn list(items: &[impl std::fmt::Display]) -> String {
    let items: Vec<String> = items.iter().map(|i| i.to_string()).collect();
    if items.is_empty() { "-".into() } else { items.join(",") }
}

pub(crate) fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Milliseconds for people.
pub(crate) fn age(ms: Option<u64>) -> String {
    match ms {
        None => "-".into(),
        Some(ms) if ms < 1000 => format!("{ms} ms"),
        Some(ms) if ms < 120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        Some(ms) => format!("{} min", ms / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(["1".into(), "frankfurt".into()]);
        table.row(["1000".into(), String::new()]);
        let mut out = Vec::new();
        table.print(&mut out, "none").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "ID    NAME\n1     frankfurt\n1000\n");
    }

    #[test]
    fn ages_have_a_unit() {
        let ages = [None, Some(7), Some(1250), Some(600_000)].map(age);
        assert_eq!(ages, ["-", "7 ms", "1.2 s", "10 min"]);
    }
}
