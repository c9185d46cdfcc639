//! The scenarios by name, and schedules drawn from a seed.

use crate::{
    fault::{Fault, Step, Way, Who},
    net::Path,
    plan::{Expect, Plan, SOAK},
    rng::Rng,
    wan::Link,
};

/// Everything heals within this time after the last fault: an election, a restart, the hold-down and the way back
/// (2 s each), and the two seconds after which a sick observer is believed again, on a machine that is busy.
pub const HEAL_MS: u64 = 45_000;

fn step(at_ms: u64, lasts_ms: u64, fault: Fault) -> Step {
    Step { at_ms, lasts_ms, fault }
}

fn plan(name: &str, about: &str, steps: Vec<Step>, expect: Expect) -> Plan {
    let end = steps.iter().map(|s| s.at_ms + s.lasts_ms).max().unwrap_or_default();
    Plan {
        name: name.into(),
        about: about.into(),
        seed: 1,
        sites: 3,
        link: None,
        pairs: Vec::new(),
        timing: "lan".into(),
        quorum: "majority".into(),
        steps,
        lasts_ms: end + 1_000,
        heal_within_ms: HEAL_MS,
        expect,
    }
}

fn kill(who: Who) -> Fault {
    Fault::Kill { who: vec![who] }
}

fn isolate(who: Who, path: Path, way: Way) -> Fault {
    Fault::Isolate { who, path, way }
}

/// All scenarios, in the order in which they are read.
pub fn all() -> Vec<Plan> {
    let mut all = deaths();
    all.extend(silences());
    all.extend(evidence());
    all.extend(calm());
    all.extend(operators());
    all
}

/// The scenario of this name.
pub fn find(name: &str) -> Option<Plan> {
    all().into_iter().find(|p| p.name == name)
}

const MOVES: Expect = Expect::Moves { within_ms: 2_000 };
const SILENT: Expect = Expect::Moves { within_ms: 6_000 };
/// Silence and an election.
const ELECTED: Expect = Expect::Moves { within_ms: 8_000 };

/// Leadership is handed over, and has come there when the next fault begins.
fn lead(to: Who) -> Step {
    step(0, 100, Fault::Lead { to })
}

fn deaths() -> Vec<Plan> {
    use Fault::{Drain, KillAll, Lead, Storm};
    use Who::{Leader, Node, Primary, Standby};
    let minority = Fault::Kill { who: vec![Node(1), Node(2)] };
    vec![
        plan(
            "kill-primary",
            "The answered site dies while another one leads; the survivors answer the next site.",
            vec![step(0, 3_000, Lead { to: Node(2) }), step(4_000, 6_000, kill(Primary))],
            MOVES,
        ),
        plan(
            "kill-leader",
            "The site that is answered and leads dies: an election and a failover.",
            vec![step(0, 3_000, Lead { to: Node(1) }), step(4_000, 6_000, kill(Leader))],
            MOVES,
        ),
        plan(
            "kill-standby",
            "A site dies that is neither answered nor leads; nothing may move.",
            vec![step(0, 6_000, kill(Standby))],
            Expect::Stays,
        ),
        Plan {
            sites: 5,
            ..plan(
                "kill-minority",
                "Two of five sites die at once, the answered one among them.",
                vec![step(0, 8_000, minority)],
                MOVES,
            )
        },
        plan(
            "kill-all",
            "All nodes die at once and come back; they answer what they answered last.",
            vec![step(0, 1_500, KillAll)],
            Expect::Anything,
        ),
        plan(
            "restart-storm",
            "The answered site's process dies every 1.5 s for 15 s: one failover, and no storm of them.",
            vec![step(0, 15_000, Storm { who: Node(1), every_ms: 1_500 })],
            Expect::MovesOnce { within_ms: 2_000 },
        ),
        plan(
            "announced-restart",
            "The answered site is stopped in order (SIGTERM): it drains, and comes back.",
            vec![step(0, 5_000, Drain { who: Primary })],
            Expect::MovesOnce { within_ms: 2_000 },
        ),
    ]
}

fn silences() -> Vec<Plan> {
    use Fault::{Bridge, Cut, Flap, Pause};
    use Who::{Leader, Node, Primary};
    vec![
        plan(
            "pause-primary",
            "The answered site stands still for 8 s (SIGSTOP).",
            vec![step(0, 8_000, Pause { who: Primary })],
            SILENT,
        ),
        plan(
            "pause-short",
            "Every site stands still for 1.5 s in turn, as the default preset tolerates.",
            (0..3).map(|i| step(i * 5_000, 1_500, Pause { who: Node(1 + i as usize) })).collect(),
            Expect::Stays,
        ),
        plan(
            "cut-primary",
            "The answered site is cut off from the others: the majority moves, the minority goes on answering.",
            vec![step(0, 10_000, isolate(Primary, Path::All, Way::Both))],
            SILENT,
        ),
        plan(
            "cut-leader-one-way",
            "The answered site leads and is heard by nobody, but hears all: an election and a failover.",
            vec![lead(Node(1)), step(3_000, 10_000, isolate(Leader, Path::All, Way::Out))],
            ELECTED,
        ),
        plan(
            "cut-inbound",
            "The answered site hears nobody, but is heard.",
            vec![step(0, 8_000, isolate(Primary, Path::All, Way::In))],
            SILENT,
        ),
        Plan {
            sites: 5,
            ..plan(
                "bridge",
                "The answered site leads and sees one node only, which sees everybody: the topology that stops openraft without its \
                 quorum-loss probe. The others elect a leader and move while it lasts.",
                vec![lead(Node(1)), step(3_000, 15_000, Bridge)],
                ELECTED,
            )
        },
        plan(
            "cut-pair",
            "The leader and another one of three sites do not reach each other; the third reaches both, and gets the \
             leadership. Nothing may move.",
            vec![
                lead(Node(1)),
                step(3_000, 10_000, Cut { a: Node(1), b: Node(2), path: Path::All, way: Way::Both }),
            ],
            Expect::Elects,
        ),
        plan(
            "flapping-link",
            "The link of two sites goes away and comes back every 700 ms. Nothing may move.",
            vec![step(0, 12_000, Flap { a: Node(1), b: Node(3), every_ms: 700 })],
            Expect::Stays,
        ),
    ]
}

/// Rows of the truth table of evidence, with their expected verdict.
fn evidence() -> Vec<Plan> {
    use Fault::{Backends, Cut, Hide, SlowDisk, Starve};
    use Who::{Node, Primary, Standby};
    // three of four observers do not reach the endpoint of the first of five sites
    let unseen = |name: &str, about: &str, quorum: &str, expect| Plan {
        sites: 5,
        quorum: quorum.into(),
        ..plan(
            name,
            about,
            (2..5)
                .map(|b| step(0, 9_000, Cut { a: Node(1), b: Node(b), path: Path::Client, way: Way::In }))
                .collect(),
            expect,
        )
    };
    vec![
        plan(
            "backends-die",
            "The backends of the answered site die while its node lives: it declares itself unable, which needs no majority.",
            vec![step(0, 6_000, Backends { who: Primary })],
            Expect::Moves { within_ms: 6_000 },
        ),
        plan(
            "backends-die-standby",
            "The backends of a site die that is not answered. Nothing may move.",
            vec![step(0, 6_000, Backends { who: Standby })],
            Expect::Stays,
        ),
        plan(
            "client-path-cut",
            "Nobody reaches the answered site's endpoint, but its node votes happily: client path red beats node path green.",
            vec![step(0, 9_000, isolate(Primary, Path::Client, Way::In))],
            SILENT,
        ),
        plan(
            "node-path-cut",
            "The answered site's node hears nobody, but its endpoint serves: node path red alone moves nothing.",
            vec![step(0, 9_000, isolate(Primary, Path::Node, Way::Both))],
            Expect::Stays,
        ),
        plan(
            "sick-observer",
            "No observer reaches the answered site's endpoint, but one of the two abstains, since its disk is slow: too few \
             can judge, so nothing moves.",
            vec![
                step(0, 14_000, SlowDisk { who: Node(3), ms: 800 }),
                step(5_000, 8_000, isolate(Node(1), Path::Client, Way::In)),
            ],
            Expect::Disarmed,
        ),
        plan(
            "half-seen",
            "One of two observers does not reach the answered site's endpoint: degraded, shown, not moved.",
            vec![step(0, 9_000, Cut { a: Node(1), b: Node(2), path: Path::Client, way: Way::In })],
            Expect::Degraded,
        ),
        unseen(
            "three-of-four",
            "Three of four observers do not reach the answered site's endpoint, three of five sites are a majority: it moves.",
            "majority",
            SILENT,
        ),
        unseen(
            "unanimous",
            "The same where the service asks for unanimity: one observer reaches the site, so it is degraded, not moved.",
            "unanimous",
            Expect::Degraded,
        ),
        plan(
            "disarmed",
            "No observer reaches the answered site's endpoint, but both abstain, since their disks are slow: nobody can judge, \
             which is an alarm, and nothing moves.",
            vec![
                step(0, 14_000, SlowDisk { who: Node(2), ms: 800 }),
                step(0, 14_000, SlowDisk { who: Node(3), ms: 800 }),
                step(5_000, 8_000, isolate(Node(1), Path::Client, Way::In)),
            ],
            Expect::Disarmed,
        ),
        plan(
            "starved-observer",
            "No observer reaches the answered site's endpoint, but one of the two has no descriptor left for a probe, so it \
             abstains: too few can judge, and nothing moves.",
            vec![
                step(0, 14_000, Starve { who: Node(3) }),
                step(5_000, 8_000, Cut { a: Node(1), b: Node(2), path: Path::Client, way: Way::In }),
            ],
            Expect::Disarmed,
        ),
        plan(
            "hidden",
            "Clients outside do not reach the answered site, but every observer does: probes are the evidence, so nothing \
             moves. Observers stand where the clients are, or this is not seen.",
            vec![step(0, 9_000, Hide { who: Primary })],
            Expect::Stays,
        ),
    ]
}

fn calm() -> Vec<Plan> {
    use Fault::{Clock, Drift, FailingFsync, FullDisk, Loss, PowerCut, SlowDisk, Weather};
    use Who::{Leader, Node, Primary};
    let bursts = Link { delay_ms: 2, jitter_ms: 3, loss: 900, bad_ms: 60, good_ms: 1_500, reorder: 20 };
    let far = |name: &str, about: &str, rtt: u32, timing: &str| Plan {
        link: Some(Link { jitter_ms: rtt / 10, ..Link::rtt(rtt) }),
        timing: timing.into(),
        ..plan(name, about, vec![step(0, 6_000, kill(Who::Primary))], Expect::Moves { within_ms: 8_000 })
    };
    vec![
        plan(
            "loss",
            "Two of 100 packets between sites are lost. Nothing may move.",
            vec![step(0, 12_000, Loss { per_mille: 20 })],
            Expect::Stays,
        ),
        plan(
            "burst-loss",
            "Loss in bursts, jitter and reordering between sites. Nothing may move.",
            vec![step(0, 15_000, Weather { link: bursts })],
            Expect::Stays,
        ),
        far("near", "Sites 3 ms apart; the answered one dies.", 3, "lan"),
        far("far", "Sites 100 ms apart; the answered one dies.", 100, "wan"),
        far("very-far", "Sites 200 ms apart; the answered one dies.", 200, "global"),
        Plan {
            pairs: vec![(0, 1, 3), (0, 2, 100), (1, 2, 200)],
            ..far("near-and-far", "Sites 3, 100 and 200 ms apart; the answered one dies.", 100, "global")
        },
        plan(
            "clock-jump",
            "Wall clocks jump by an hour, forward and back. Nothing may move, nothing expires.",
            vec![
                step(0, 6_000, Clock { who: Leader, seconds: 3_600 }),
                step(8_000, 6_000, Clock { who: Node(3), seconds: -3_600 }),
            ],
            Expect::Stays,
        ),
        plan(
            "drift",
            "Clocks run 2 % fast at one site and 2 % slow at another, the monotonic ones too. Nothing may move.",
            vec![
                step(0, 15_000, Drift { who: Node(1), ppm: 20_000 }),
                step(0, 15_000, Drift { who: Node(2), ppm: -20_000 }),
            ],
            Expect::Stays,
        ),
        plan(
            "slow-disk",
            "Each fsync takes 150 ms longer, at a follower and then at the leader. Nothing may move.",
            vec![
                step(0, 6_000, SlowDisk { who: Node(3), ms: 150 }),
                step(8_000, 6_000, SlowDisk { who: Leader, ms: 150 }),
            ],
            Expect::Stays,
        ),
        plan(
            "failing-fsync",
            "A follower's fsyncs fail: it votes and writes no more, and goes on answering; restarted it catches up.",
            vec![step(0, 6_000, FailingFsync { who: Node(3) })],
            Expect::Stays,
        ),
        plan(
            "failing-fsync-leader",
            "The leader's fsyncs fail: another one takes over.",
            vec![step(0, 100, Fault::Lead { to: Node(2) }), step(2_000, 8_000, FailingFsync { who: Leader })],
            Expect::Elects,
        ),
        plan(
            "power-cut",
            "The answered site, then the leader, then another one lose their power: nothing acknowledged is lost.",
            vec![
                step(0, 4_000, PowerCut { who: Primary }),
                step(9_000, 3_000, PowerCut { who: Leader }),
                step(17_000, 3_000, PowerCut { who: Node(3) }),
            ],
            SILENT,
        ),
        plan(
            "full-disk",
            "A follower's disk is full: it goes on answering, the others go on writing; restarted with room it catches up.",
            vec![step(0, 6_000, FullDisk { who: Node(3) })],
            Expect::Stays,
        ),
        plan(
            "full-disk-leader",
            "The leader's disk is full: another one takes over.",
            vec![step(0, 100, Fault::Lead { to: Node(2) }), step(2_000, 8_000, FullDisk { who: Leader })],
            Expect::Elects,
        ),
    ]
}

fn operators() -> Vec<Plan> {
    use Fault::{Demote, Import, Lead, Loss};
    use Who::{Follower, Leader, Node, Primary};
    vec![
        plan(
            "transfers",
            "Leadership is handed round under loss. Nothing may move.",
            vec![
                step(0, 9_000, Loss { per_mille: 20 }),
                step(1_000, 100, Lead { to: Node(2) }),
                step(3_000, 100, Lead { to: Node(3) }),
                step(5_000, 100, Lead { to: Follower }),
            ],
            Expect::Stays,
        ),
        Plan {
            sites: 5,
            ..plan(
                "members",
                "A voter is demoted, the answered site dies, which leads, the voter is promoted again.",
                vec![
                    lead(Node(1)),
                    step(3_000, 8_000, Demote { who: Follower }),
                    step(6_000, 4_000, kill(Leader)),
                ],
                MOVES,
            )
        },
        plan(
            "snapshot",
            "A node is away while 7,000 records are written, and comes back to a snapshot; the leader dies meanwhile.",
            vec![
                step(0, 40_000, kill(Node(3))),
                step(500, 60_000, Fault::Flood { writes: 7_000 }),
                step(40_300, 4_000, kill(Leader)),
            ],
            Expect::Anything,
        ),
        plan(
            "members-cut",
            "A voter is demoted and leadership handed over while the answered site is cut off.",
            vec![
                step(0, 12_000, isolate(Primary, Path::All, Way::Both)),
                step(2_000, 6_000, Demote { who: Node(3) }),
                step(9_000, 100, Lead { to: Follower }),
            ],
            SILENT,
        ),
        plan(
            "import",
            "A big zone is imported while the answered site dies.",
            vec![step(0, 8_000, Import { names: 20_000 }), step(500, 6_000, kill(Primary))],
            MOVES,
        ),
    ]
}

/// Rounds of drawn faults, each ended by healing.
pub fn soak(seed: u64, sites: usize, minutes: f64) -> Plan {
    let mut rng = Rng::new(seed);
    let lasts_ms = (minutes * 60_000.0) as u64;
    let (mut steps, mut at, mut round_ends) = (Vec::new(), 0, 20_000);
    // Healing takes some two seconds a round, during which the plan's time stands still.
    while at < lasts_ms * 9 / 10 {
        let (fault, lasts) = draw(&mut rng, sites);
        steps.push(step(at, lasts, fault));
        at += rng.exponential(2_500).min(12_000);
        if at >= round_ends {
            at += 2_000;
            steps.push(step(at, 0, Fault::Heal));
            at += 1_000;
            round_ends = at + 20_000;
        }
    }
    Plan {
        name: SOAK.into(),
        about: format!(
            "Faults drawn from seed {seed} for about {minutes} minutes, several at a time, in rounds that end with healing."
        ),
        seed,
        sites,
        link: None,
        pairs: Vec::new(),
        timing: "lan".into(),
        quorum: "majority".into(),
        steps,
        lasts_ms: at + 2_000,
        heal_within_ms: 60_000,
        expect: Expect::Anything,
    }
}

fn draw(rng: &mut Rng, sites: usize) -> (Fault, u64) {
    let who = match rng.below(5) {
        0 => Who::Leader,
        1 => Who::Primary,
        _ => Who::Node(1 + rng.below(sites as u64) as usize),
    };
    let a = 1 + rng.below(sites as u64) as usize;
    let b = 1 + (a + rng.below(sites as u64 - 1) as usize) % sites;
    let (a, b) = (Who::Node(a), Who::Node(b));
    let way = *rng.pick(&[Way::Both, Way::Both, Way::In, Way::Out]).unwrap_or(&Way::Both);
    let path = *rng.pick(&[Path::All, Path::All, Path::Node, Path::Client]).unwrap_or(&Path::All);
    let lasts = 300 + rng.exponential(4_000).min(15_000);
    let fault = match rng.below(100) {
        0..16 => kill(who),
        16..20 if sites > 3 => Fault::Kill { who: vec![who, a] },
        16..22 => Fault::KillAll,
        22..27 => Fault::Storm { who, every_ms: rng.range(400, 2_000) },
        27..31 => Fault::Drain { who },
        31..43 => {
            return (
                Fault::Pause { who },
                if rng.chance(500) { rng.range(100, 1_500) } else { rng.range(2_000, 30_000) },
            );
        }
        43..51 => isolate(who, path, way),
        51..58 => Fault::Cut { a, b, path, way },
        58..59 => Fault::Hide { who },
        59..62 => Fault::Bridge,
        62..66 => Fault::Flap { a, b, every_ms: rng.range(100, 1_500) },
        66..71 => Fault::Loss { per_mille: rng.range(5, 50) as u32 },
        71..77 => {
            let link = Link {
                delay_ms: rng.range(0, 10) as u32,
                jitter_ms: rng.range(0, 5) as u32,
                loss: 800,
                bad_ms: rng.range(20, 100) as u32,
                good_ms: rng.range(1_500, 4_000) as u32,
                reorder: rng.range(0, 30) as u32,
            };
            Fault::Weather { link }
        }
        77..84 => Fault::Backends { who },
        84..86 => Fault::FullDisk { who },
        86..88 => Fault::PowerCut { who },
        88..89 => Fault::SlowDisk { who, ms: rng.range(20, 1_000) as u32 },
        89..90 => Fault::FailingFsync { who },
        90..91 => Fault::Starve { who },
        91..92 => Fault::Drift { who, ppm: rng.range(0, 40_000) as i32 - 20_000 },
        92..93 => Fault::Clock { who, seconds: if rng.chance(500) { 3_600 } else { -3_600 } },
        93..95 => Fault::Lead { to: who },
        95..97 => Fault::Demote { who },
        97..98 => return (Fault::Flood { writes: 5_500 }, 30_000), // more than lie between two snapshots
        _ => Fault::Import { names: 5_000 },
    };
    (fault, lasts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn scenarios_have_names_of_their_own_and_say_what_they_show() {
        let names: BTreeSet<String> = all().into_iter().map(|p| p.name).collect();
        assert_eq!(names.len(), all().len());
        for plan in all() {
            assert!(plan.about.ends_with('.') && !plan.steps.is_empty(), "{}", plan.name);
            assert!(plan.steps.is_sorted_by_key(|s| s.at_ms), "{}", plan.name);
        }
    }

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        assert_eq!(soak(7, 3, 5.0), soak(7, 3, 5.0));
        assert_ne!(soak(7, 3, 5.0).steps, soak(8, 3, 5.0).steps);
    }

    #[test]
    fn a_schedule_is_read_again_as_it_was_written() {
        for plan in all().into_iter().chain([soak(3, 5, 30.0)]) {
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "{text}");
        }
    }

    #[test]
    fn all_kinds_of_faults_are_drawn() {
        let word = |f: &Fault| serde_json::to_value(f).unwrap()["kind"].as_str().unwrap().to_owned();
        let drawn: BTreeSet<String> = soak(1, 5, 240.0).steps.iter().map(|s| word(&s.fault)).collect();
        assert_eq!(drawn.len(), 25, "{drawn:?}");
    }
}
