//! The word that was meant.

/// The known word that is nearest to what was written, if it is near enough to be meant.
pub(crate) fn nearest<'f>(name: &str, fields: &[&'f str]) -> Option<&'f str> {
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
}
