//! `events`: the last decisions, or the live stream.

use super::Session;
use crate::{
    command::EventsArgs,
    error::CliError,
    show::{family, list},
};
use std::{collections::VecDeque, time::Duration};
use zonekeeper_api::wire::{Decision, Event};

/// Longest line of the stream, in bytes: an event is far smaller.
const MAX_LINE: usize = 256 << 10;
/// Pause before a broken stream is taken up again.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn events(s: &mut Session<'_>, args: EventsArgs) -> Result<(), CliError> {
    if args.follow { follow(s, args.count).await } else { decisions(s, &args).await }
}

async fn decisions(s: &mut Session<'_>, args: &EventsArgs) -> Result<(), CliError> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.service.as_ref().map(|id| ("service", id.to_string())));
    let decisions = s.client.get_with::<Vec<Decision>>("/v1/decisions", &query).await?;
    if s.json(&decisions)? {
        return Ok(());
    }
    if decisions.data.is_empty() {
        writeln!(s.out, "no decisions yet")?;
    }
    for d in decisions.data.iter().rev() {
        let (from, to) = (list(&d.from), list(&d.to));
        writeln!(
            s.out,
            "{} {} service {} {}: {from} -> {to} ({})",
            d.time,
            d.epoch,
            d.service,
            family(d.family),
            d.cause
        )?;
        if args.evidence {
            for row in &d.rows {
                let votes: Vec<String> = row.votes.iter().map(|v| format!("{} {}", v.site, v.vote)).collect();
                let own = row.own.as_ref().map(|o| format!("; its own word: {o}")).unwrap_or_default();
                writeln!(s.out, "    {} {}: {}{own}", row.site, row.verdict, votes.join(", "))?;
            }
        }
    }
    Ok(())
}

/// Goes on until it is stopped, across broken connections: decisions in between are not lost.
async fn follow(s: &mut Session<'_>, count: Option<usize>) -> Result<(), CliError> {
    let mut left = count.unwrap_or(usize::MAX);
    let (mut last, mut shown) = (None, Shown::default());
    let mut stream = s.client.stream(None).await?; // the first failure is the caller's to see
    loop {
        let mut lines = Lines::default();
        while let Ok(Some(chunk)) = stream.chunk().await {
            for data in lines.feed(&chunk) {
                let Ok(event) = serde_json::from_str::<Event>(&data) else { continue };
                last = last.max(Some(event.generation.index));
                if !shown.first(&event.id) {
                    continue;
                }
                line(s, &event, &data)?;
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
        }
        stream = loop {
            tokio::time::sleep(AGAIN).await;
            match s.client.stream(last).await {
                Ok(stream) => break stream,
                Err(CliError::Unreachable { .. } | CliError::Api { .. }) => {} // the node is restarting, or has too many readers
                Err(error) => return Err(error),
            }
        };
    }
}

fn line(s: &mut Session<'_>, event: &Event, data: &str) -> Result<(), CliError> {
    match s.json {
        true => writeln!(s.out, "{data}")?,
        false => writeln!(
            s.out,
            "{} {} {} {}: {}",
            event.time,
            event.generation,
            event.kind.name(),
            event.subject,
            event.text
        )?,
    }
    Ok(s.out.flush()?)
}

/// Ids of what was shown: a stream that is taken up again begins with what its reader may have seen.
#[derive(Default)]
struct Shown(VecDeque<String>);

impl Shown {
    /// More than a node repeats.
    const KEPT: usize = 4096;

    fn first(&mut self, id: &str) -> bool {
        let first = !self.0.iter().any(|shown| shown == id);
        if first {
            if self.0.len() == Shown::KEPT {
                self.0.pop_front();
            }
            self.0.push_back(id.to_owned());
        }
        first
    }
}

/// Cuts the stream into the data of its events (WHATWG HTML §9.2.6; ours have one `data` line each).
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn feed(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        for &byte in chunk {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.0).into_owned();
                out.extend(line.strip_prefix("data:").map(|d| d.trim_start().to_owned()));
                self.0.clear();
            } else if self.0.len() < MAX_LINE {
                self.0.push(byte);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_shown_once() {
        let mut shown = Shown::default();
        assert!(shown.first("0.7-web-v4") && shown.first("0.7-web-v6"));
        assert!(!shown.first("0.7-web-v4"));
        (0..Shown::KEPT).for_each(|n| assert!(shown.first(&n.to_string())));
        assert_eq!(shown.0.len(), Shown::KEPT, "and it is bounded");
    }

    #[test]
    fn events_are_found_however_the_stream_is_cut() {
        let text = b": hello\n\nid: 5\nevent: x\ndata: {\"a\":1}\n\ndata: {\"b\":2}\n\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let all: Vec<String> = text.chunks(size).flat_map(|c| lines.feed(c)).collect();
            assert_eq!(all, ["{\"a\":1}", "{\"b\":2}"]);
        }
    }
}
