//! Which generations to boot, best first.
//!
//! In: what is pinned, wanted and known, and what boots have shown. Out: a
//! [`Decision`]. [`decide`] is pure: it reads and changes nothing. Invariant: a generation
//! that is bad or has no attempts left is never chosen, unless the command
//! line pins it.

use std::collections::BTreeMap;

use crate::store::{Proof, Store, Trials};
use crate::sys::kmsg;

/// What is decided on. The plain root comes after all of it.
#[derive(Debug)]
pub struct Situation<'a> {
    /// `plywood.generation=N`
    pub pinned: Option<u32>,
    /// What the configuration or the last `apply` asks for; none if that is
    /// not known.
    pub wanted: Option<u32>,
    /// What was current before.
    pub previous: Option<u32>,
    /// The generations in the store, or why they cannot be read.
    pub known: &'a BTreeMap<u32, Result<Proof, String>>,
    pub trials: &'a Trials,
}

/// What a generation is chosen as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Pinned,
    Wanted,
    LastGood,
    Previous,
    /// Complete, and all that is left where nothing says what is wanted.
    Newest,
}

/// Whether a boot is an attempt that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Proven, or in no need of it.
    Free,
    /// The attempt of this number, of so many.
    Attempt { number: u32, of: u32 },
}

/// One generation to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub number: u32,
    pub role: Role,
    pub count: Count,
}

/// What to try, and what not to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Best first.
    pub choices: Vec<Choice>,
    /// Generations that would have come before, and why they do not.
    pub passed_over: Vec<(u32, String)>,
    /// Those that have had their last attempt, and are bad from now on.
    pub exhausted: Vec<u32>,
}

/// Decides: pinned, then wanted, then those that are known to be good, then
/// the previous one.
pub fn decide(situation: &Situation<'_>) -> Decision {
    let mut decision = Decision::default();
    for (number, role) in in_order(situation) {
        match judge(situation, number, role) {
            Ok(count) => decision.choices.push(Choice { number, role, count }),
            Err(Refusal::Reason(reason)) => decision.passed_over.push((number, reason)),
            Err(Refusal::Exhausted(attempts)) => {
                decision.passed_over.push((number, exhausted(attempts)));
                decision.exhausted.push(number);
            }
        }
    }
    decision
}

/// How generation `number` has to prove itself, or why it cannot be read.
pub fn proof_of(store: &Store, number: u32) -> Result<Proof, String> {
    store.generation_record(number).map(|record| record.proof).map_err(|error| kmsg::chain(&error))
}

/// The same of a generation that is complete; else why it cannot be booted.
pub fn proof_if_whole(store: &Store, number: u32) -> Result<Proof, String> {
    store.generation(number).map(|generation| generation.record().proof).map_err(|error| kmsg::chain(&error))
}

/// Why a generation is given up after so many attempts.
pub fn exhausted(attempts: u32) -> String {
    format!("{attempts} boots of it were tried, and none was blessed")
}

enum Refusal {
    Reason(String),
    Exhausted(u32),
}

/// All that may be booted, each once, as what it is first.
fn in_order(situation: &Situation<'_>) -> Vec<(u32, Role)> {
    let Situation { pinned, wanted, previous, known, trials } = situation;
    let good = known.keys().rev().filter(|number| trials.is_good(**number));
    let mut order: Vec<(u32, Role)> = Vec::new();
    order.extend(pinned.map(|number| (number, Role::Pinned)));
    order.extend(wanted.map(|number| (number, Role::Wanted)));
    order.extend(trials.last_good.iter().chain(good).map(|number| (*number, Role::LastGood)));
    order.extend(previous.map(|number| (number, Role::Previous)));
    // A pointer to nothing is as good as none.
    if wanted.is_none_or(|number| !known.contains_key(&number)) {
        order.extend(known.keys().rev().map(|number| (*number, Role::Newest)));
    }
    let mut seen = std::collections::BTreeSet::new();
    order.retain(|(number, _)| seen.insert(*number));
    order
}

fn judge(situation: &Situation<'_>, number: u32, role: Role) -> Result<Count, Refusal> {
    let proof = match situation.known.get(&number) {
        None => return Err(Refusal::Reason("it is not in the store".into())),
        Some(Err(reason)) => return Err(Refusal::Reason(reason.clone())),
        Some(Ok(proof)) => proof,
    };
    let made = situation.trials.mark(number).attempts;
    let is_over = proof.attempts > 0 && made >= proof.attempts;
    match (situation.trials.why_bad(number), role) {
        (_, Role::Pinned) if is_over => Ok(Count::Free),
        (Some(_), Role::Pinned) => Ok(Count::Free),
        (Some(reason), _) => Err(Refusal::Reason(format!("it is marked bad: {reason}"))),
        _ if situation.trials.is_good(number) || proof.attempts == 0 => Ok(Count::Free),
        _ if is_over => Err(Refusal::Exhausted(made)),
        _ => Ok(Count::Attempt { number: made.saturating_add(1), of: proof.attempts }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Mark, Verdict};

    /// Marks as words: `good`, `bad`, a number of attempts, or `cut` for a
    /// generation that cannot be read.
    fn known(marks: &[(u32, &str)]) -> (BTreeMap<u32, Result<Proof, String>>, Trials) {
        let mut trials = Trials::default();
        let mut known = BTreeMap::new();
        for (number, mark) in marks {
            let proof = Proof { attempts: if *mark == "unproven" { 0 } else { 3 }, time_limit: None };
            known.insert(*number, Ok(proof));
            match *mark {
                "good" => trials.bless(*number),
                "bad" => trials.condemn(*number, "it hung".into(), false),
                "cut" => drop(known.insert(*number, Err("it is cut".into()))),
                "unproven" => {}
                attempts => {
                    let mark = Mark { attempts: attempts.parse().unwrap(), verdict: Verdict::Untried };
                    trials.marks.insert(*number, mark);
                }
            }
        }
        (known, trials)
    }

    /// `*` stands for an attempt that is counted.
    fn shown(decision: &Decision) -> String {
        let show = |choice: &Choice| {
            let role = match choice.role {
                Role::Pinned => "pinned",
                Role::Wanted => "wanted",
                Role::LastGood => "good",
                Role::Previous => "previous",
                Role::Newest => "newest",
            };
            let count = match choice.count {
                Count::Free => String::new(),
                Count::Attempt { number, of } => format!(" {number}/{of}"),
            };
            format!("{} {role}{count}", choice.number)
        };
        decision.choices.iter().map(show).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_best_generation_comes_first() {
        type Row<'a> = (&'a [(u32, &'a str)], [Option<u32>; 3], &'a str);
        let rows: [Row<'_>; 21] = [
            // generations · pinned, wanted, previous · what is tried
            (&[], [None, None, None], ""),
            (&[(1, "0")], [None, Some(1), None], "1 wanted 1/3"),
            (&[(1, "2")], [None, Some(1), None], "1 wanted 3/3"),
            (&[(1, "3")], [None, Some(1), None], ""),
            (&[(1, "9")], [None, Some(1), None], ""),
            (&[(1, "unproven")], [None, Some(1), None], "1 wanted"),
            (&[(1, "good")], [None, Some(1), None], "1 wanted"),
            (&[(1, "good"), (2, "0")], [None, Some(2), Some(1)], "2 wanted 1/3, 1 good"),
            (&[(1, "good"), (2, "3")], [None, Some(2), Some(1)], "1 good"),
            (&[(1, "good"), (2, "bad")], [None, Some(2), Some(1)], "1 good"),
            (&[(1, "good"), (2, "0"), (3, "bad")], [None, Some(3), Some(2)], "1 good, 2 previous 1/3"),
            (&[(1, "0"), (2, "bad")], [None, Some(2), Some(1)], "1 previous 1/3"),
            (&[(1, "bad"), (2, "bad")], [None, Some(2), Some(1)], ""),
            (&[(1, "good"), (2, "good"), (3, "cut")], [None, Some(3), Some(2)], "2 good, 1 good"),
            // rolled back: the good one is not the newest
            (&[(1, "good"), (2, "0")], [None, Some(1), Some(2)], "1 wanted, 2 previous 1/3"),
            // the pointer is gone
            (&[(1, "good"), (2, "0")], [None, None, None], "1 good, 2 newest 1/3"),
            (&[(1, "0"), (2, "1"), (3, "bad")], [None, None, None], "2 newest 2/3, 1 newest 1/3"),
            // the pointer names what is not there
            (&[(1, "good"), (2, "0")], [None, Some(999), None], "1 good, 2 newest 1/3"),
            (&[(1, "unproven")], [None, Some(999), None], "1 newest"),
            // the command line may pin what is bad
            (&[(1, "good"), (2, "bad")], [Some(2), Some(1), None], "2 pinned, 1 wanted"),
            (&[(1, "good"), (2, "1")], [Some(2), Some(1), None], "2 pinned 2/3, 1 wanted"),
        ];
        for (marks, [pinned, wanted, previous], expected) in rows {
            let (known, trials) = known(marks);
            let decision = decide(&Situation { pinned, wanted, previous, known: &known, trials: &trials });
            assert_eq!(shown(&decision), expected, "{marks:?} {pinned:?} {wanted:?} {previous:?}");
        }
    }

    #[test]
    fn who_is_passed_over_is_told_why() {
        let (known, trials) = known(&[(1, "cut"), (2, "bad"), (3, "3")]);
        let at = |wanted, previous| {
            decide(&Situation { pinned: None, wanted, previous, known: &known, trials: &trials })
        };
        let decision = at(Some(3), Some(2));
        let expected = [(3, exhausted(3)), (2, "it is marked bad: it hung".into())];
        assert_eq!((decision.passed_over, decision.exhausted), (expected.to_vec(), vec![3]));
        let expected = [(9, "it is not in the store".into()), (1, "it is cut".into())];
        assert_eq!(at(Some(9), Some(1)).passed_over[..2], expected);
    }

    /// Whatever the order of boots that fail and are cut, each is tried at
    /// most as often as allowed.
    #[test]
    fn attempts_come_to_an_end() {
        let (known, mut trials) = known(&[(1, "good"), (2, "0")]);
        let mut tried = 0;
        for _ in 0..10 {
            let situation = Situation {
                pinned: None,
                wanted: Some(2),
                previous: Some(1),
                known: &known,
                trials: &trials,
            };
            let decision = decide(&situation);
            let first = decision.choices[0];
            if let Count::Attempt { number, .. } = first.count {
                trials.marks.entry(first.number).or_default().attempts = number;
                tried += 1;
            }
        }
        assert_eq!(tried, 3);
    }
}
