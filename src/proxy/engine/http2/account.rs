//! What a connection was good for, and when it is a flood.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::Waker,
};

/// Streams that a client may cancel, beyond those that it let end (rapid reset, CVE-2023-44487). A browser that leaves a
/// page cancels some dozens.
const CANCELLED: u32 = 200;
/// Bytes that a client may send beside requests and their bodies (floods of SETTINGS, PING, RST_STREAM, empty frames:
/// CVE-2019-9512 to 9518): so many at once. Bodies that wait in the windows that we granted count until they are taken,
/// and are less;
const IDLE_BYTES: u64 = 2 * 1024 * 1024;
/// and so many for each byte of requests and responses.
const IDLE_RATIO: u64 = 4;
/// What a response's head counts.
const HEAD: u64 = 64;

/// Shared by a connection and its streams.
#[derive(Default)]
pub(super) struct Account {
    open: Cell<u32>,
    cancelled: Cell<u32>,
    read: Cell<u64>,
    useful: Cell<u64>,
    connection: RefCell<Option<Waker>>,
}

impl Account {
    /// The connection's task is woken when its last stream ends.
    pub(super) fn tell(&self, connection: Waker) {
        *self.connection.borrow_mut() = Some(connection);
    }

    /// So many bytes came.
    pub(super) fn read(&self, n: usize) {
        self.read.set(self.read.get() + n as u64);
    }

    /// So many bytes of a request or a response went through.
    pub(super) fn useful(&self, n: usize) {
        self.useful.set(self.useful.get() + n as u64);
    }

    pub(super) fn responded(&self) {
        self.useful.set(self.useful.get() + HEAD);
    }

    /// Streams that run.
    pub(super) fn open(&self) -> u32 {
        self.open.get()
    }

    /// The client does nothing but keep us busy.
    pub(super) fn flooded(&self) -> bool {
        self.cancelled.get() > CANCELLED || self.read.get() > IDLE_BYTES + IDLE_RATIO * self.useful.get()
    }
}

/// A stream's place on its connection.
pub(super) struct Open {
    account: Rc<Account>,
    cancelled: bool,
}

impl Open {
    pub(super) fn new(account: &Rc<Account>) -> Open {
        account.open.set(account.open.get() + 1);
        Open { account: account.clone(), cancelled: false }
    }

    /// The client took it back.
    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let account = &self.account;
        let cancelled = account.cancelled.get();
        account.cancelled.set(if self.cancelled { cancelled + 1 } else { cancelled.saturating_sub(1) });
        account.open.set(account.open.get() - 1);
        if (account.open.get() == 0 || account.flooded())
            && let Some(connection) = &*account.connection.borrow()
        {
            connection.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_end_well_pay_for_those_that_are_cancelled() {
        let account = Rc::new(Account::default());
        let cancel = || Open::new(&account).cancel();
        for _ in 0..10 * CANCELLED {
            cancel();
            drop(Open::new(&account));
        }
        assert!(!account.flooded());
        (0..=CANCELLED).for_each(|_| cancel());
        assert!(account.flooded());
        assert_eq!(account.open(), 0);
    }

    #[test]
    fn bytes_that_carry_nothing_are_a_flood_and_a_download_pays_for_its_window_updates() {
        let account = Account::default();
        for _ in 0..100_000 {
            account.read(13); // a WINDOW_UPDATE
            account.useful(16 * 1024);
        }
        assert!(!account.flooded());
        let account = Account::default();
        (0..=IDLE_BYTES / 17).for_each(|_| account.read(17)); // PINGs
        assert!(account.flooded());
    }
}
