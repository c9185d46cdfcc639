//! The sticky cookie: it names the backend of a client, signed with a key that all sites derive from the cluster's secret,
//! so that every site honours it and no client can choose a backend by itself.
//!
//! A value is the backend's number and a signature over pool and number, 16 hex digits each. Those of a pool's backends
//! are made when the configuration changes; a request costs a comparison.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use zonekeeper_core::{entry::Secret, id::PoolId};

const LABEL: &[u8] = b"zonekeeper sticky cookie 1";
/// Length of a value.
const LEN: usize = 32;

/// The cookie values of one pool's backends.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// Per backend: the value of now, and those of earlier secrets.
    backends: Vec<Vec<[u8; LEN]>>,
}

impl Values {
    /// Of backends known by these numbers; empty where there is no secret.
    pub(crate) fn new(secrets: &[Secret], pool: &PoolId, numbers: impl Iterator<Item = u64>) -> Values {
        let of = |number| secrets.iter().map(|s| value(s, pool, number)).collect();
        Values { backends: numbers.map(of).collect() }
    }

    /// The backend that a value names, and whether its value is the one of now.
    pub(crate) fn find(&self, said: &[u8]) -> Option<(usize, bool)> {
        let said: &[u8; LEN] = said.try_into().ok()?;
        let place = |values: &Vec<[u8; LEN]>| values.iter().position(|v| same(v, said));
        self.backends.iter().enumerate().find_map(|(i, values)| Some((i, place(values)? == 0)))
    }

    /// The value that names a backend.
    pub(crate) fn of(&self, backend: usize) -> Option<&str> {
        std::str::from_utf8(self.backends.get(backend)?.first()?).ok()
    }
}

/// Takes the same time wherever the two differ.
fn same(a: &[u8; LEN], b: &[u8; LEN]) -> bool {
    a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else { return [0; 32] }; // a key has any length
    parts.iter().for_each(|p| mac.update(p));
    mac.finalize().into_bytes().into()
}

fn value(secret: &Secret, pool: &PoolId, number: u64) -> [u8; LEN] {
    let key = mac(&secret.0, &[LABEL]);
    let number = number.to_be_bytes();
    let signature = mac(&key, &[pool.as_str().as_bytes(), &[0], &number]);
    let mut value = [0; LEN];
    for (i, byte) in number.iter().chain(&signature[..8]).enumerate() {
        let digit = |n: u8| b"0123456789abcdef"[usize::from(n)];
        (value[2 * i], value[2 * i + 1]) = (digit(byte >> 4), digit(byte & 15));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(secrets: &[u8], pool: &str) -> Values {
        let secrets: Vec<Secret> = secrets.iter().map(|b| Secret([*b; 32])).collect();
        Values::new(&secrets, &pool.parse().unwrap(), [10, 20].into_iter())
    }

    #[test]
    fn a_value_names_its_backend_in_its_pool_and_nothing_else() {
        let web = values(&[1], "web");
        let second = web.of(1).unwrap();
        assert_eq!(web.find(second.as_bytes()), Some((1, true)));
        assert_eq!(values(&[1], "web").of(1), Some(second), "every node says the same");
        assert_eq!(values(&[1], "api").find(second.as_bytes()), None);
        assert_eq!(values(&[2], "web").find(second.as_bytes()), None);
        for at in 0..LEN {
            let mut other = second.as_bytes().to_vec();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(web.find(&other), None, "{at}");
        }
        assert_eq!((web.find(b""), web.find(second.to_uppercase().as_bytes())), (None, None));
        assert_eq!(values(&[], "web").of(0), None, "without a secret there is no cookie");
    }

    #[test]
    fn an_earlier_secret_is_honoured_and_replaced() {
        let (before, after) = (values(&[1], "web"), values(&[2, 1], "web"));
        assert_eq!(after.find(before.of(0).unwrap().as_bytes()), Some((0, false)));
        assert_ne!(after.of(0), before.of(0));
    }
}
