//! Which generation is current: the symlinks `current` and `previous`.
//!
//! In: the number of a generation that is whole. Out: what the next boot
//! wants, and what was wanted before. Invariant: a pointer is replaced whole,
//! `current` last: that is the commit.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{GenerationError, Origin};
use crate::store::{Lock, Store, give_back, replace, sync_parent};
use crate::sys::kmsg;

impl Store {
    /// The number that the symlink `current` names, if there is one.
    pub fn current(&self) -> Result<Option<u32>, GenerationError> {
        self.linked("current")
    }

    /// The number of the generation that was current before.
    pub fn previous(&self) -> Result<Option<u32>, GenerationError> {
        self.linked("previous")
    }

    /// As [`current`](Self::current), for who can do without: a pointer that
    /// cannot be read is as good as none, and the boot and
    /// [`inspect`](Self::inspect) tell of it.
    pub fn current_if_readable(&self) -> Option<u32> {
        if_readable(self.current())
    }

    /// As [`current_if_readable`](Self::current_if_readable), the one before.
    pub fn previous_if_readable(&self) -> Option<u32> {
        if_readable(self.previous())
    }

    /// The current generation's number and configuration, if the running
    /// machine chose it, by `apply` or `rollback`. It needs none of the
    /// layers, so it outlives them.
    pub fn applied_config(&self) -> Option<(u32, String)> {
        let number = self.current_if_readable()?;
        let record = self.generation_record(number).ok()?;
        let was_chosen = || self.trials().is_ok_and(|trials| trials.chosen == Some(number));
        if record.origin != Origin::Apply && !was_chosen() {
            return None;
        }
        self.config_text(number).ok().map(|config| (number, config))
    }

    /// Whether something was applied, and which generation that made current
    /// cannot be read any more. The configuration that a machine was first
    /// booted with must not take its place.
    pub fn has_lost_choice(&self) -> bool {
        let is_lost = match self.current() {
            Ok(Some(number)) => self.config_text(number).is_err(),
            Ok(None) => !matches!(self.previous(), Ok(None)),
            Err(_) => true,
        };
        let is_applied =
            |number| self.generation_record(number).is_ok_and(|record| record.origin == Origin::Apply);
        is_lost && self.generations().is_ok_and(|numbers| numbers.into_iter().any(is_applied))
    }

    /// Makes generation `number` the one to boot.
    pub fn activate(&self, _lock: &Lock, number: u32) -> Result<(), GenerationError> {
        let target = |number: u32| Path::new("generations").join(number.to_string());
        let replaced = match self.current() {
            Ok(Some(current)) if current == number => return Ok(()),
            Ok(Some(current)) if self.generation_path(current).is_dir() => {
                self.replace_link("previous", &target(current))
            }
            // There is nothing that could be gone back to.
            Ok(_) | Err(_) => Ok(()),
        };
        replaced
            .and_then(|()| self.replace_link("current", &target(number)))
            .map_err(|source| GenerationError::Io { action: "activate", number, source })
    }

    fn linked(&self, link: &str) -> Result<Option<u32>, GenerationError> {
        let path = self.path.join(link);
        let target = match fs::read_link(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(GenerationError::Read { path, source }),
            Ok(target) => target,
        };
        let number = target.strip_prefix("generations").ok().and_then(Path::to_str);
        match number.and_then(|number| number.parse().ok()) {
            Some(number) => Ok(Some(number)),
            None => {
                let what = io::Error::other("it does not name a generation");
                Err(GenerationError::Read { path, source: what })
            }
        }
    }

    fn replace_link(&self, name: &str, target: &Path) -> io::Result<()> {
        let staged = self.path.join("staging").join(name);
        let path = self.path.join(name);
        symlink(target, &staged)?;
        replace(&staged, &path).inspect_err(|_| give_back(&staged))?;
        sync_parent(&path)
    }
}

fn if_readable(pointer: Result<Option<u32>, GenerationError>) -> Option<u32> {
    pointer.unwrap_or_else(|error| {
        log::debug!("a pointer counts as lost: {}", kmsg::chain(&error));
        None
    })
}
