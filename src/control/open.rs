//! Opens the common secrets on this node: the replicated state holds them sealed.

use zonekeeper_core::{
    State,
    entry::Secret,
    id::CertificateId,
    secrets::{Bundle, SecretId},
};
use zonekeeper_peer::keys::Keyring;

/// What this node can read, and a secret of its own for when it cannot.
pub(crate) struct Opener {
    keyring: Keyring,
    own: Option<Secret>,
}

impl Opener {
    /// With the node's cluster keys.
    pub(crate) fn new(keyring: Keyring) -> Opener {
        let mut own = [0; 32];
        let own = getrandom::fill(&mut own).is_ok().then_some(Secret(own)); // without randomness: none
        Opener { keyring, own }
    }

    /// The node's cluster keys.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    fn opened<const N: usize>(&self, state: &State, id: &SecretId) -> Vec<[u8; N]> {
        let opened =
            state.secrets.vault.opened(id, |key, context, sealed| self.keyring.open(key, context, sealed));
        opened.into_iter().filter_map(|plain| plain.try_into().ok()).collect()
    }

    /// What the proxy derives keys from, what is used first. Without the cluster's key: a secret of this node alone, so
    /// that its own cookies and tickets are good here.
    pub(crate) fn session(&self, state: &State) -> Vec<Secret> {
        if !state.secrets.vault.rings.contains_key(&SecretId::Session) {
            return state.secrets.session.clone();
        }
        match self.opened(state, &SecretId::Session) {
            opened if opened.is_empty() => self.own.iter().cloned().collect(),
            opened => opened.into_iter().map(Secret).collect(),
        }
    }

    /// A certificate that the cluster holds; none: it does not, or this node cannot open it.
    pub(crate) fn certificate(&self, state: &State, id: &CertificateId) -> Option<Bundle> {
        let id = SecretId::Certificate(id.clone());
        let open = |key, context: &[u8], sealed: &[u8]| self.keyring.open(key, context, sealed);
        state.secrets.vault.opened(&id, open).into_iter().next().map(|pem| Bundle(pem.into()))
    }

    /// What DNS makes and checks cookies with, what is used first; empty: nothing that all share.
    pub(crate) fn cookies(&self, state: &State) -> Vec<[u8; 16]> {
        if state.secrets.vault.rings.contains_key(&SecretId::DnsCookie) {
            return self.opened(state, &SecretId::DnsCookie);
        }
        let plain = &state.secrets.cookies;
        let used = plain.active.into_iter();
        used.chain(plain.staged).chain(plain.previous).map(|secret| secret.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use zonekeeper_core::{
        cookies::{CookieSecret, Cookies},
        secrets::{Ring, Sealed, Secrets, Vault},
        time::LogTime,
    };
    use zonekeeper_peer::keys::ClusterKey;

    fn sealed(key: &ClusterKey, id: &SecretId, plain: &[u8]) -> Ring {
        let bytes = key.seal(&id.context(), plain).unwrap();
        let active = Sealed { key: key.id(), generation: 1, bytes };
        Ring { active, staged: None, previous: None, since: LogTime(0), known: false }
    }

    #[test]
    fn with_the_key_all_share_and_without_it_a_node_has_its_own() {
        let (id, key) = (SecretId::Session, ClusterKey::generate(7).unwrap());
        let cookies = Cookies { active: Some(CookieSecret([3; 16])), ..Cookies::default() };
        let plain = Secrets { session: vec![Secret([2; 32])], cookies, vault: Arc::default() };
        let mut state = State { secrets: plain, ..State::default() };
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let nodes = dirs.each_ref().map(|dir| Opener::new(Keyring::load(dir.path())));
        let [first, second, without] = &nodes;
        for node in [first, second] {
            node.keyring().add(key.clone(), &[]).unwrap();
        }
        assert_eq!(without.session(&state), [Secret([2; 32])], "version 1 seals nothing");
        assert_eq!(without.cookies(&state), [[3; 16]]);

        let rings = [(SecretId::DnsCookie, [5; 16].to_vec()), (id, [4; 32].to_vec())];
        let rings = rings.map(|(id, plain)| (id.clone(), sealed(&key, &id, &plain)));
        let vault = Vault { key: Some(key.id()), exposed: false, rings: rings.into() };
        state.secrets.vault = Arc::new(vault);
        for node in [first, second] {
            assert_eq!((node.session(&state), node.cookies(&state)), (vec![Secret([4; 32])], vec![[5; 16]]));
        }
        let own = without.session(&state);
        assert!(
            own.len() == 1 && own != [Secret([4; 32])] && own == without.session(&state),
            "one of its own"
        );
        assert!(without.cookies(&state).is_empty());
    }
}
