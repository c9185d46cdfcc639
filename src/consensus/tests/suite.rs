//! openraft's own tests of a store and a state machine.

use super::support::runtime;
use crate::{
    machine::Machine,
    store::{self, Store},
    types::TypeConfig,
};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<TypeConfig, Store, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Store, Machine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let (store, machine) = store::open(dir.path(), 0, None).unwrap();
        Ok((dir, store, machine))
    }
}

#[test]
fn the_store_passes_the_suite_of_openraft() {
    runtime().block_on(Suite::test_all(Builder)).unwrap();
}
