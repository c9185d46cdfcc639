//! A run as one HTML page that needs nothing else.

use crate::record::Record;

/// The page.
pub fn html(record: &Record, file: &str) -> String {
    format!("{} {file}", record.plan.name)
}
