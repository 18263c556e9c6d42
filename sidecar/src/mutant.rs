//! Bugs planted on purpose, to prove that the simulator sees them. Outside a build with
//! `--cfg hive_mutant`, which only `make sim-mutants` makes, every question here is answered `false`
//! at compile time.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A frame of a deposed leader counts, and a release read before the assignment does.
    StaleNo,
    /// An attempt is started before its intent is in the journal.
    SkipJournal,
    /// A result is sent before it is in the journal.
    ResultUnjournaled,
    /// Assignments count as taken in when they arrive.
    PrematureSeen,
    /// A new process does not look at what the journal says is unsettled.
    NoRelist,
    /// A result is sent once.
    ResultOnce,
}

#[cfg(hive_mutant)]
mod planted {
    use super::Mutant;

    std::thread_local! {
        static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
    }

    /// Plants a bug in everything this thread does from here on.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.set(mutant);
    }

    pub(crate) fn is(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }
}

#[cfg(hive_mutant)]
pub(crate) use planted::is;
#[cfg(hive_mutant)]
pub use planted::plant;

#[cfg(not(hive_mutant))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}
