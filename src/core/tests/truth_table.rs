//! The truth table of the evidence, row by row, and the counting that `apply` repeats.

mod support;

use std::collections::BTreeSet;
use support::*;
use zonekeeper_core::{
    evidence::{Kind, Row, Standing, Vote, needed},
    model::Quorum,
};

const GREEN: Vote = Vote::Green;
const YELLOW: Vote = Vote::Yellow;
const ABSTAIN: Vote = Vote::Abstain;

/// Five voting sites; the suspect is one of them, so four vote and three are needed.
fn conclude(votes: [Vote; 4], own: Option<Kind>) -> Option<Standing> {
    let votes: Vec<_> = ["b", "c", "d", "e"].map(site).into_iter().zip(votes).collect();
    Row::conclude(&votes, own, 3)
}

#[test]
fn unable_by_its_own_word_is_down_whatever_others_see() {
    for kind in [Kind::Unhealthy, Kind::Draining] {
        assert_eq!(conclude([GREEN; 4], Some(kind)), Some(Standing::Down));
        assert_eq!(conclude([ABSTAIN; 4], Some(kind)), Some(Standing::Down));
        assert_eq!(conclude([RED, GREEN, GREEN, GREEN], Some(kind)), Some(Standing::Down));
    }
}

#[test]
fn red_from_the_needed_number_is_down() {
    assert_eq!(conclude([RED; 4], None), Some(Standing::Down));
    assert_eq!(conclude([RED, RED, RED, GREEN], None), Some(Standing::Down));
    assert_eq!(conclude([RED, RED, RED, ABSTAIN], None), Some(Standing::Down));
}

#[test]
fn red_from_some_is_degraded() {
    assert_eq!(conclude([RED, RED, GREEN, GREEN], None), Some(Standing::Degraded));
    assert_eq!(conclude([RED, ABSTAIN, ABSTAIN, ABSTAIN], None), Some(Standing::Degraded));
    assert_eq!(conclude([RED, RED, YELLOW, YELLOW], None), Some(Standing::Degraded));
}

#[test]
fn green_from_one_and_red_from_none_is_up() {
    assert_eq!(conclude([GREEN; 4], None), Some(Standing::Up));
    assert_eq!(conclude([GREEN, YELLOW, ABSTAIN, ABSTAIN], None), Some(Standing::Up));
}

#[test]
fn yellow_and_abstentions_conclude_nothing() {
    assert_eq!(conclude([YELLOW; 4], None), None);
    assert_eq!(conclude([ABSTAIN; 4], None), None);
    assert_eq!(conclude([YELLOW, ABSTAIN, YELLOW, ABSTAIN], None), None);
}

#[test]
fn where_nobody_else_can_judge_a_site_its_own_word_is_all() {
    assert_eq!(Row::conclude(&[], None, 1), Some(Standing::Up));
    assert_eq!(Row::conclude(&[], Some(Kind::Draining), 1), Some(Standing::Down));
    let (alone, three): (BTreeSet<_>, BTreeSet<_>) = ([site("a")].into(), SITES.map(site).into());
    let up = row("a", &[], None, Standing::Up);
    assert_eq!(up.check(&alone, Quorum::Majority, true), Ok(()), "no other site votes");
    assert_eq!(up.check(&three, Quorum::Majority, false), Ok(()), "a service without a check");
    assert!(up.check(&three, Quorum::Majority, true).is_err(), "others vote, and they are left out");
    assert_eq!(up.headline(), "a up: able by its own word");
}

#[test]
fn a_majority_is_of_all_voting_sites_with_the_suspect() {
    let voting =
        |n: usize| ["a", "b", "c", "d", "e"].iter().take(n).map(|s| site(s)).collect::<BTreeSet<_>>();
    for (sites, majority, unanimous) in [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 3, 3), (5, 3, 4)] {
        assert_eq!(needed(&voting(sites), &site("a"), Quorum::Majority), majority, "{sites} sites");
        assert_eq!(needed(&voting(sites), &site("a"), Quorum::Unanimous), unanimous, "{sites} sites");
    }
    // a site that does not vote is judged by all
    assert_eq!(needed(&voting(3), &site("x"), Quorum::Majority), 2);
    assert_eq!(needed(&voting(3), &site("x"), Quorum::Unanimous), 3);
}

#[test]
fn forged_rows_do_not_pass_the_second_count() {
    let voting: BTreeSet<_> = SITES.map(site).into();
    let check = |votes: &[(&str, Vote)], own, verdict| {
        row("a", votes, own, verdict).check(&voting, Quorum::Majority, true).map_err(|e| e.to_string())
    };
    use Standing::{Degraded, Down, Up};
    assert_eq!(check(&[("b", RED), ("c", RED)], None, Down), Ok(()));
    assert_eq!(check(&[("b", RED), ("c", GREEN)], None, Degraded), Ok(()));
    assert_eq!(check(&[("b", GREEN), ("c", ABSTAIN)], None, Up), Ok(()));
    assert_eq!(check(&[("b", GREEN), ("c", GREEN)], Some(Kind::Draining), Down), Ok(()));

    assert!(check(&[("b", RED), ("c", GREEN)], None, Down).is_err(), "too few");
    assert!(check(&[("a", RED), ("b", RED)], None, Down).is_err(), "the suspect votes");
    assert!(check(&[("x", RED), ("b", RED)], None, Down).is_err(), "a stranger votes");
    assert!(check(&[("b", RED), ("b", RED)], None, Down).is_err(), "one votes twice");
    assert!(check(&[("b", GREEN)], None, Up).is_err(), "a red one may be left out");
    assert!(check(&[("b", RED), ("c", RED)], None, Up).is_err(), "another verdict");
    assert!(check(&[("b", YELLOW), ("c", YELLOW)], None, Up).is_err(), "no verdict follows");
    assert!(check(&[("b", GREEN), ("c", GREEN)], Some(Kind::Unhealthy), Up).is_err(), "against its own word");
}
