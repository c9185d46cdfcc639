//! What should be while faults last.

use crate::{
    fault::{Fault, Way},
    net::{Path, Rule},
    shim::Wrong,
    wan::Link,
};
use std::collections::BTreeSet;

/// How long a process of a restart storm is away, in milliseconds.
const AWAY_MS: u64 = 60;

/// The sum of what faults ask for. Nodes and sites are places from 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wants {
    pub(super) down: BTreeSet<usize>,
    pub(super) drained: BTreeSet<usize>,
    pub(super) paused: BTreeSet<usize>,
    pub(super) full: BTreeSet<usize>,
    /// Without a new descriptor.
    pub(super) starved: BTreeSet<usize>,
    /// Without power.
    pub(super) dark: BTreeSet<usize>,
    pub(super) emptied: BTreeSet<usize>,
    /// Where clients from outside do not come.
    pub(super) hidden: BTreeSet<usize>,
    pub(super) rules: Vec<Rule>,
    pub(super) weather: Option<Link>,
    wrong: Vec<(usize, Wrong)>,
}

impl Wants {
    /// This beside that; of two weathers the later one holds.
    pub(super) fn add(&mut self, more: Wants) {
        self.down.extend(more.down);
        self.drained.extend(more.drained);
        self.paused.extend(more.paused);
        self.full.extend(more.full);
        self.starved.extend(more.starved);
        self.dark.extend(more.dark);
        self.emptied.extend(more.emptied);
        self.hidden.extend(more.hidden);
        self.rules.extend(more.rules);
        self.weather = more.weather.or(self.weather);
        self.wrong.extend(more.wrong);
    }

    /// What is wrong with a node's clocks and fsyncs, all faults together.
    pub(super) fn wrong(&self, node: usize) -> Wrong {
        let all = self.wrong.iter().filter(|(n, _)| *n == node);
        all.fold(Wrong::default(), |sum, (_, w)| Wrong {
            seconds: sum.seconds + w.seconds,
            ppm: sum.ppm + w.ppm,
            slow_ms: sum.slow_ms + w.slow_ms,
            fail: sum.fail || w.fail,
        })
    }
}

/// What one fault asks for, so many milliseconds after it began.
pub(super) fn of(fault: &Fault, nodes: &[usize], elapsed_ms: u64, count: usize) -> Wants {
    let (mut w, all) = (Wants::default(), nodes.iter().copied());
    match fault {
        Fault::Kill { .. } | Fault::KillAll => w.down.extend(all),
        Fault::Storm { every_ms, .. } if elapsed_ms % (*every_ms).max(AWAY_MS + 1) < AWAY_MS => {
            w.down.extend(all)
        }
        Fault::Drain { .. } => w.drained.extend(all),
        Fault::Pause { .. } => w.paused.extend(all),
        Fault::FullDisk { .. } => w.full.extend(all),
        Fault::Starve { .. } => w.starved.extend(all),
        Fault::Backends { .. } => w.emptied.extend(all),
        Fault::Isolate { path, way, .. } => {
            for site in all {
                let others = (0..count).filter(|o| *o != site);
                w.rules.extend(others.flat_map(|o| cut(site, o, *path, *way)));
            }
        }
        Fault::Hide { .. } => w.hidden.extend(all),
        Fault::Cut { path, way, .. } => w.rules.extend(pair(nodes, *path, *way)),
        Fault::Flap { every_ms, .. } if (elapsed_ms / (*every_ms).max(1)).is_multiple_of(2) => {
            w.rules.extend(pair(nodes, Path::All, Way::Both));
        }
        Fault::Bridge => {
            if let [leader, bridge] = nodes {
                let others = (0..count).filter(|o| o != leader && o != bridge);
                w.rules.extend(others.flat_map(|o| cut(*leader, o, Path::All, Way::Both)));
            }
        }
        Fault::Loss { per_mille } => {
            let pairs = (0..count).flat_map(|a| (0..count).filter(move |b| *b != a).map(move |b| (a, b)));
            w.rules.extend(pairs.map(|(from, to)| Rule { from, to, path: Path::All, loss: *per_mille }));
        }
        Fault::Weather { link } => w.weather = Some(*link),
        Fault::PowerCut { .. } => w.dark.extend(all),
        Fault::Clock { seconds, .. } => wrong(&mut w, nodes, Wrong { seconds: *seconds, ..Wrong::default() }),
        Fault::Drift { ppm, .. } => wrong(&mut w, nodes, Wrong { ppm: (*ppm).into(), ..Wrong::default() }),
        Fault::SlowDisk { ms, .. } => {
            wrong(&mut w, nodes, Wrong { slow_ms: (*ms).into(), ..Wrong::default() })
        }
        Fault::FailingFsync { .. } => wrong(&mut w, nodes, Wrong { fail: true, ..Wrong::default() }),
        _ => {}
    }
    w
}

fn wrong(wants: &mut Wants, nodes: &[usize], wrong: Wrong) {
    wants.wrong.extend(nodes.iter().map(|n| (*n, wrong)));
}

fn pair(nodes: &[usize], path: Path, way: Way) -> Vec<Rule> {
    match nodes {
        [a, b] => cut(*a, *b, path, way),
        _ => Vec::new(),
    }
}

/// Rules that cut `a` off from `b`, as `a` sees it.
fn cut(a: usize, b: usize, path: Path, way: Way) -> Vec<Rule> {
    let rule = |from, to| Rule { from, to, path, loss: 1000 };
    match way {
        Way::Both => vec![rule(a, b), rule(b, a)],
        Way::Out => vec![rule(a, b)],
        Way::In => vec![rule(b, a)],
    }
}

/// Which observers do not see which sites: observer, site. A connection needs both directions.
pub(super) fn blinded(wants: &Wants) -> Vec<(usize, usize)> {
    let mut out = BTreeSet::new();
    for rule in wants.rules.iter().filter(|r| r.loss >= 1000) {
        match rule.path {
            Path::All => out.extend([(rule.from, rule.to), (rule.to, rule.from)]),
            Path::Client => _ = out.insert((rule.from, rule.to)),
            Path::Node => {}
        }
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Who;

    #[test]
    fn a_bridge_leaves_the_leader_one_neighbour_which_reaches_all() {
        let cut: BTreeSet<_> =
            of(&Fault::Bridge, &[0, 1], 0, 5).rules.iter().map(|r| (r.from, r.to)).collect();
        assert_eq!(cut, [(0, 2), (2, 0), (0, 3), (3, 0), (0, 4), (4, 0)].into());
    }

    #[test]
    fn a_one_way_cut_blinds_both_ends_but_a_client_path_only_the_client() {
        let isolate = |path, way| Fault::Isolate { who: Who::Primary, path, way };
        let blind = |fault: &Fault| blinded(&of(fault, &[0], 0, 3));
        let both = vec![(0, 1), (0, 2), (1, 0), (2, 0)];
        assert_eq!(blind(&isolate(Path::All, Way::Out)), both);
        assert_eq!(blind(&isolate(Path::Client, Way::In)), [(1, 0), (2, 0)]);
        assert_eq!(blind(&isolate(Path::Node, Way::Both)), []);
    }

    #[test]
    fn a_flapping_link_is_there_half_the_time() {
        let flap = Fault::Flap { a: Who::Node(1), b: Who::Node(2), every_ms: 100 };
        let cut = |ms| !of(&flap, &[0, 1], ms, 3).rules.is_empty();
        assert_eq!([cut(0), cut(99), cut(100), cut(199), cut(200)], [true, true, false, false, true]);
    }

    #[test]
    fn clocks_of_two_faults_add_up() {
        let jump = |seconds| of(&Fault::Clock { who: Who::Node(1), seconds }, &[0], 0, 3);
        let mut wants = jump(3600);
        wants.add(jump(-60));
        assert_eq!((wants.wrong(0).seconds, wants.wrong(1).seconds), (3540, 0));
    }
}
