//! When a node must answer, and when a site may be left.

use crate::{history::Asked, record::Record};

/// What was seen of a fault may still move something so long after it ended: streams turn green after some answers,
/// reports live 3.5 s, and a decision waits for a leader.
pub const ECHO_US: u64 = 12_000_000;

/// The times at which an asker's node must answer: from its first answer after a silence that was inflicted to the
/// next one that is.
pub fn must_answer(record: &Record, asked: &Asked) -> Vec<(u64, u64)> {
    let mut silences: Vec<(u64, u64)> = record
        .happened
        .iter()
        .filter(|h| h.trouble.is_none() && h.silences(asked))
        .filter_map(|h| Some((h.silent_from_us?, h.to_us)))
        .collect();
    silences.sort_unstable();
    let (mut out, mut from) = (Vec::new(), 0);
    for (silent, ends) in silences {
        if silent > from {
            out.push((from, silent));
        }
        from = from.max(back(asked, ends));
    }
    out.push((from, record.phases.end_us));
    out.retain(|(a, b)| a < b);
    out
}

/// When an asker had an answer again after a silence that ended then: at once, when it went on with the same answer
/// over the whole silence.
fn back(asked: &Asked, ends: u64) -> u64 {
    if asked.changes.iter().rev().find(|s| s.asked_us < ends).is_some_and(|s| s.answer.is_some()) {
        return ends;
    }
    // a question that went out before the end may be one that the dead process was asked
    let again = asked.changes.iter().filter(|s| s.asked_us >= ends && s.answer.is_some()).map(|s| s.at_us);
    again.min().unwrap_or(u64::MAX)
}

/// Whether a site may be left at a moment: it was hit itself, or a majority of the sites could not reach it, at the
/// time or shortly before.
pub fn excused(record: &Record, site: usize, at_us: u64) -> bool {
    let near = || {
        let lasts =
            move |h: &&crate::fault::Happened| h.from_us <= at_us && at_us <= h.to_us.saturating_add(ECHO_US);
        record.happened.iter().filter(lasts).filter(|h| h.trouble.is_none())
    };
    if near().any(|h| h.excuses && h.nodes.contains(&site)) {
        return true;
    }
    let blind = |o: &usize| near().any(|h| h.blinded.contains(&(*o, site)));
    let sites = record.sites.len();
    (0..sites).filter(|o| *o != site).filter(blind).count() > sites / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{self, SECOND};

    #[test]
    fn a_killed_node_must_answer_before_and_after_but_not_while_it_is_away() {
        let mut record = samples::record();
        record.happened.push(samples::kill(0, 10 * SECOND, 20 * SECOND));
        let asked = samples::asked(0, &[(0, true), (10 * SECOND, false), (21 * SECOND, true)]);
        assert_eq!(must_answer(&record, &asked), [(0, 10 * SECOND), (21 * SECOND, record.phases.end_us)]);
        let short = samples::asked(0, &[(0, true), (40 * SECOND, true)]);
        let whole = [(0, 10 * SECOND), (20 * SECOND, record.phases.end_us)];
        assert_eq!(must_answer(&record, &short), whole, "a silence too short to be seen");
        let other = samples::asked(1, &[(0, true)]);
        assert_eq!(must_answer(&record, &other), [(0, record.phases.end_us)]);
        record.happened[0].streams_only = true;
        let datagrams = samples::asked(0, &[(0, true)]);
        assert_eq!(must_answer(&record, &datagrams), [(0, record.phases.end_us)], "datagrams need nothing");
        let streams = Asked { over: "tcp".into(), ..datagrams };
        assert_eq!(must_answer(&record, &streams).len(), 2);
    }

    #[test]
    fn a_site_is_excused_by_what_hit_it_or_hid_it_from_a_majority() {
        let mut record = samples::record();
        record.happened.push(samples::kill(0, 10 * SECOND, 20 * SECOND));
        assert!(!excused(&record, 0, 9 * SECOND) && excused(&record, 0, 15 * SECOND));
        assert!(excused(&record, 0, 25 * SECOND) && !excused(&record, 0, 40 * SECOND));
        assert!(!excused(&record, 1, 15 * SECOND));
        record.happened.push(samples::blind(&[(0, 1)], 50 * SECOND, 60 * SECOND));
        assert!(!excused(&record, 1, 55 * SECOND), "one of three");
        record.happened.push(samples::blind(&[(2, 1)], 50 * SECOND, 60 * SECOND));
        assert!(excused(&record, 1, 55 * SECOND), "two of three");
    }
}
