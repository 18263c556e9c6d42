//! `hive bench`: a fleet of real processes under load, measured from the client's side. The verdict
//! on lost and doubled tasks is part of every run, not only the speed.

mod agent;
mod compare;
mod figure;
mod ledger;
mod load;
mod plant;
mod run;
mod usage;

use crate::args::{Bench, BenchVerb, Global};
use crate::failure::Failure;

pub(crate) async fn run(args: Bench, global: &Global) -> Result<(), Failure> {
    match args.verb {
        BenchVerb::Run(args) => run::run(*args, global).await,
        BenchVerb::Compare(args) => compare::run(&args),
        BenchVerb::Agent => agent::run().await,
    }
}
