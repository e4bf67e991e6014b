//! Any work with crashes in it, against a list.
use proptest::prelude::*;
use spool::segments::{Entry, Error, Limits, Mark, Spool};

use crate::memory::{Dice, Memory};

#[derive(Clone, Debug)]
enum Step {
    Append {
        length: u16,
    },
    Sync,
    Read {
        count: u8,
    },
    /// So many of those that were read and not released yet.
    Release {
        count: u8,
    },
    /// The process ends at once, or the power fails.
    Crash {
        power: Option<u64>,
    },
    /// The next but so many calls of the disk fails.
    Fail {
        after: u8,
        for_ever: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..500_u16).prop_map(|length| Step::Append { length }),
        3 => Just(Step::Sync),
        4 => (1..9_u8).prop_map(|count| Step::Read { count }),
        3 => (1..9_u8).prop_map(|count| Step::Release { count }),
        1 => prop::option::of(any::<u64>()).prop_map(|power| Step::Crash { power }),
        1 => (1..12_u8, any::<bool>()).prop_map(|(after, for_ever)| Step::Fail { after, for_ever }),
    ]
}

/// What the spool must hold.
#[derive(Default)]
struct Model {
    /// All contents that were tried for each block: whether one whose call failed is there nobody knows.
    tried: Vec<Vec<(Vec<u8>, Mark)>>,
    /// The blocks that are there, from the first.
    count: usize,
    synced: usize,
    released: usize,
    read: usize,
}

impl Model {
    fn note(&mut self, bytes: Vec<u8>, mark: Mark) {
        self.tried.resize_with(self.tried.len().max(self.count + 1), Vec::new);
        self.tried[self.count].push((bytes, mark));
    }

    fn knows(&self, entry: Entry, bytes: &[u8]) -> bool {
        let number = usize::try_from(entry.sequence).unwrap() - 1;
        self.tried[number].iter().any(|(one, mark)| one == bytes && *mark == entry.mark)
    }
}

struct Test {
    disk: Memory,
    limits: Limits,
    spool: Option<Spool<Memory>>,
    model: Model,
}

impl Test {
    fn spool(&mut self) -> &Spool<Memory> {
        if self.spool.is_none() {
            self.disk.fail_at(None, false);
            let spool = Spool::on(self.disk.clone(), self.limits).unwrap();
            // Read from the beginning, to see what is there.
            let (mut bytes, mut sequences) = (Vec::new(), Vec::new());
            while let Some(entry) = spool.read(&mut bytes).unwrap() {
                assert!(self.model.knows(entry, &bytes), "block {}", entry.sequence);
                sequences.push(usize::try_from(entry.sequence).unwrap());
            }
            let model = &mut self.model;
            assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
            let (first, last) = (sequences.first().copied(), sequences.last().copied());
            assert!(first.unwrap_or(model.synced + 1) <= model.released + 1, "{first:?}, released {}", model.released);
            // Where everything was released, nothing need be there.
            let last = last.unwrap_or(model.count.min(model.released));
            assert!(last >= model.synced && last <= model.tried.len(), "{last}, synced {}", model.synced);
            // What is there now is durable; what is not will be tried anew.
            (model.count, model.synced, model.read) = (last, last, first.unwrap_or(last + 1) - 1);
            // Of a segment that is there all blocks come again.
            model.released = model.read;
            model.tried.truncate(last);
            drop(spool);
            self.spool = Some(Spool::on(self.disk.clone(), self.limits).unwrap());
        }
        self.spool.as_ref().unwrap()
    }

    fn failed(&mut self, error: &Error) {
        assert!(matches!(error, Error::Io { .. } | Error::Failed { .. }), "{error}");
        // A sync that failed takes what came before it away, or says so when it is opened again.
        if matches!(error, Error::Failed { .. } | Error::Io { doing: "synced", .. }) {
            self.spool = None;
        }
    }

    fn take(&mut self, step: &Step) {
        self.spool();
        let number = self.model.count as u64 + 1;
        match *step {
            Step::Append { length } => {
                let mut dice = Dice(number * 7 + u64::from(length));
                let bytes: Vec<u8> = (0..length).map(|_| u8::try_from(dice.roll(4)).unwrap()).collect();
                let mark = Mark { through_lsn: number, last: (!number.is_multiple_of(3)).then_some((number, 0)) };
                self.model.note(bytes.clone(), mark);
                match self.spool().append(&bytes, mark) {
                    Ok(sequence) => {
                        assert_eq!(sequence, number);
                        self.model.count += 1;
                    }
                    Err(Error::Full { stored, limit, .. }) => {
                        assert!(stored <= limit && self.model.released < self.model.count);
                        self.model.tried[self.model.count].pop();
                    }
                    Err(error) => self.failed(&error),
                }
            }
            Step::Sync => match self.spool().sync() {
                Ok(()) => self.model.synced = self.model.count,
                Err(error) => self.failed(&error),
            },
            Step::Read { count } => {
                let mut bytes = Vec::new();
                for _ in 0..count {
                    match self.spool().read(&mut bytes) {
                        Ok(None) => assert_eq!(self.model.read.max(self.model.released), self.model.count),
                        Ok(Some(entry)) => {
                            let last = self.model.read.max(self.model.released);
                            assert_eq!(usize::try_from(entry.sequence).unwrap(), last + 1);
                            assert!(self.model.knows(entry, &bytes));
                            self.model.read = last + 1;
                        }
                        Err(error) => self.failed(&error),
                    }
                }
            }
            Step::Release { count } => {
                // Only what is durable is given up, as one does who has confirmed it.
                let most = self.model.read.min(self.model.synced);
                let released = (self.model.released + usize::from(count)).min(most).max(self.model.released);
                self.model.released = released;
                if let Err(error) = self.spool().release(released as u64) {
                    assert!(matches!(error, Error::Io { .. }), "{error}");
                }
            }
            Step::Crash { power } => {
                self.spool = None;
                if let Some(seed) = power {
                    self.disk.lose_power(&mut Dice(seed));
                }
            }
            Step::Fail { after, for_ever } => self.disk.fail_at(Some(usize::from(after)), for_ever),
        }
        if let Some(spool) = &self.spool {
            assert!(spool.stored_bytes() <= self.limits.max_bytes + 36);
            assert_eq!(usize::try_from(spool.pending()).unwrap(), self.model.count - self.model.released);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_work_with_crashes_is_as_a_list(
        steps in prop::collection::vec(step(), 1..60),
        segment_bytes in 100..2000_u64,
        max_bytes in 2000..8000_u64,
    ) {
        let limits = Limits { max_bytes, segment_bytes };
        let mut test = Test { disk: Memory::default(), limits, spool: None, model: Model::default() };
        for step in &steps {
            test.take(step);
        }
        test.spool = None;
        test.spool();
    }
}
