//! Invariant 6: no answer set for a configured name is ever empty, unless the service asks for fail closed.
//!
//! Source: design §5.6 and §3 ("Fail open has an order … never what an operator forced down"). So there is one more way
//! to an empty set: an operator forced every site down, by name.

use super::{Violation, lanes};
use crate::{
    State,
    entry::{Force, Scope},
    id::{ServiceId, SiteId},
    model::WhenAllDown,
};
use alloc::format;

/// Every lane with endpoints has an assignment, and it is not empty.
pub fn check(state: &State) -> Result<(), Violation> {
    for (id, service, family) in lanes(state) {
        let sites = service.spec.sites(family);
        if sites.is_empty() {
            continue;
        }
        let Some(assignment) = service.assignment.get(&family) else {
            return Err(Violation::of(6, format!("{id} {family:?} has endpoints and no assignment")));
        };
        if let Some(foreign) = assignment.sites.iter().find(|s| !sites.contains(s)) {
            return Err(Violation::of(
                6,
                format!("{id} {family:?} is answered with {foreign}, which has no endpoint"),
            ));
        }
        let closed = service.spec.when_all_down != WhenAllDown::FailOpen;
        let forced = sites.iter().all(|s| force(state, id, s) == Some(Force::Down));
        if assignment.sites.is_empty() && !closed && !forced {
            return Err(Violation::of(6, format!("{id} {family:?} is answered with nothing")));
        }
    }
    Ok(())
}

/// The override in force: the service's own before the site's.
pub(super) fn force(state: &State, id: &ServiceId, site: &SiteId) -> Option<Force> {
    let own = state.overrides.get(&Scope::ServiceSite(id.clone(), site.clone()));
    own.or_else(|| state.overrides.get(&Scope::Site(site.clone()))).map(|o| o.force)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant::samples::{self, service_mut};

    #[test]
    fn an_empty_answer_is_seen() {
        let mut state = samples::state();
        assert_eq!(check(&state), Ok(()));
        samples::assign(&mut state, &[]);
        assert_eq!(check(&state).map_err(|v| v.invariant), Err(6));
        service_mut(&mut state).assignment.clear();
        assert_eq!(check(&state).map_err(|v| v.invariant), Err(6));
    }

    #[test]
    fn an_answer_without_an_endpoint_is_seen() {
        let mut state = samples::state();
        service_mut(&mut state).spec.endpoints.remove(&samples::site("a"));
        assert_eq!(check(&state).map_err(|v| v.invariant), Err(6));
    }

    #[test]
    fn fail_closed_and_an_operator_may_empty_it() {
        let mut state = samples::state();
        samples::assign(&mut state, &[]);
        service_mut(&mut state).spec.when_all_down = WhenAllDown::NoData;
        assert_eq!(check(&state), Ok(()));

        let mut state = samples::state();
        samples::assign(&mut state, &[]);
        for s in ["a", "b"] {
            samples::force(&mut state, s, Force::Down);
        }
        assert_eq!(check(&state).map_err(|v| v.invariant), Err(6), "c is left");
        samples::force(&mut state, "c", Force::Down);
        assert_eq!(check(&state), Ok(()));
    }
}
