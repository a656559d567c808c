//! What plywood makes of the kernel command line when it boots.

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::CommandLine;
use super::location::ConfigRequest;
use crate::config::units::parse_duration;
use crate::text::Escaped;

/// How to boot. Device specifications are as written; `sys::block` reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootParameters {
    /// `plywood=0` switches all of plywood off: the plain root is booted.
    pub enabled: bool,
    /// `root=`
    pub root: Option<String>,
    /// `rootfstype=`: names, comma-separated.
    pub root_type: Option<String>,
    /// `rootflags=`: mount options.
    pub root_flags: Option<String>,
    /// `ro` or `rw`, whichever comes last.
    pub root_access: RootAccess,
    /// `rootwait[=SECONDS]`
    pub root_wait: RootWait,
    /// `rootdelay=SECONDS`
    pub root_delay: Duration,
    /// `init=`: an absolute path.
    pub init: Option<PathBuf>,
    /// `panic=SECONDS`: 0 is never, negative at once, as for the kernel.
    pub panic: Option<i32>,
    /// `rd.shell`: whether an emergency shell may be opened.
    pub shell: bool,
    /// `rd.timeout=SECONDS`: how long to wait for devices; 0 is for ever.
    pub timeout: Option<Duration>,
    /// `plywood.config=`, and what pins it
    pub config: Option<ConfigRequest>,
    /// `plywood.state=`: a device specification or an absolute path.
    pub state: Option<String>,
    /// `plywood.skip=NAME[,NAME]`, perhaps several times: extensions to leave out.
    pub skip: Vec<String>,
    /// `plywood.generation=N`
    pub generation: Option<u32>,
    /// `plywood.onfailure=`, else `rd.emergency=`
    pub on_failure: Option<FailureAction>,
    /// `plywood.log=`, else `debug`, `quiet` and `loglevel=`
    pub log_level: LevelFilter,
    /// What was not understood and therefore not done, safe to print.
    pub warnings: Vec<String>,
}

/// Whether the root is to be mounted for writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootAccess {
    /// As with the kernel's own mounting of the root.
    #[default]
    ReadOnly,
    ReadWrite,
}

/// How long to wait for the root device beyond the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootWait {
    #[default]
    Usual,
    AtMost(Duration),
    Forever,
}

/// What to do when there is nothing left to boot as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureAction {
    /// Boot the plain root, without extensions.
    Base,
    /// Open an emergency shell, where `rd.shell` allows it.
    Shell,
    Reboot,
    PowerOff,
    Halt,
}

/// The parameters below `plywood.` that exist.
const OURS: [&str; 8] =
    ["config", "config.digest", "config.key", "state", "skip", "generation", "onfailure", "log"];

impl BootParameters {
    /// Reads what concerns plywood. What is malformed is left out and becomes
    /// a warning: a machine that boots the usual way can be repaired.
    pub fn new(line: &CommandLine) -> Self {
        let mut reader = Reader { line, warnings: Vec::new() };
        reader.warn_of_unknown();
        let skipped = || line.get_all("plywood.skip").flat_map(|names| names.split(','));
        Self {
            enabled: reader.flag("plywood").unwrap_or(true),
            root: text(line, "root"),
            root_type: text(line, "rootfstype"),
            root_flags: text(line, "rootflags"),
            root_access: root_access(line),
            root_wait: reader.root_wait(),
            root_delay: reader.value("rootdelay", parse_seconds).unwrap_or_default(),
            init: reader.value("init", parse_absolute),
            panic: reader.value("panic", |text| text.parse().ok()),
            shell: reader.flag("rd.shell").unwrap_or(false),
            timeout: reader.value("rd.timeout", parse_seconds),
            config: reader.config(),
            state: text(line, "plywood.state"),
            skip: skipped().filter(|name| !name.is_empty()).map(Into::into).collect(),
            generation: reader.value("plywood.generation", |text| text.parse().ok()),
            on_failure: reader.on_failure(),
            log_level: reader.log_level(),
            warnings: reader.warnings,
        }
    }
}

fn text(line: &CommandLine, key: &str) -> Option<String> {
    line.get(key).filter(|value| !value.is_empty()).map(Into::into)
}

fn root_access(line: &CommandLine) -> RootAccess {
    let is_access = |key: &str| matches!(key, "ro" | "rw");
    match line.parameters().iter().rfind(|p| p.value.is_none() && is_access(&p.key)) {
        Some(parameter) if parameter.key == "rw" => RootAccess::ReadWrite,
        _ => RootAccess::ReadOnly,
    }
}

/// Reads values and notes which ones make no sense.
struct Reader<'a> {
    line: &'a CommandLine,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn warn_of_unknown(&mut self) {
        for parameter in self.line.parameters() {
            if let Some(name) = parameter.key.strip_prefix("plywood.")
                && !OURS.contains(&name)
            {
                let known = OURS.map(|name| format!("plywood.{name}")).join(", ");
                let key = Escaped::new(&parameter.key);
                self.warnings.push(format!("{key} is not a parameter, expected one of {known}"));
            }
        }
    }

    /// The last value of `key` through `parse`.
    fn value<T>(&mut self, key: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = self.line.get(key)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.warnings.push(format!("{key}={} is malformed, ignored", Escaped::new(value)));
        }
        parsed
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        let flag = self.line.flag(key);
        if flag.is_none() && self.line.last(key).is_some() {
            self.warnings.push(format!("{key} is neither on nor off, ignored"));
        }
        flag
    }

    fn root_wait(&mut self) -> RootWait {
        match self.line.last("rootwait") {
            None => RootWait::Usual,
            Some(parameter) if parameter.value.is_none() => RootWait::Forever,
            Some(_) => self.value("rootwait", parse_seconds).map_or(RootWait::Usual, RootWait::AtMost),
        }
    }

    /// The value may be or hold a secret, so the warning does not show it.
    fn config(&mut self) -> Option<ConfigRequest> {
        let [digest, key] = ["plywood.config.digest", "plywood.config.key"].map(|key| self.line.get(key));
        let Some(location) = self.line.get("plywood.config") else {
            if digest.is_some() || key.is_some() {
                self.warnings
                    .push("plywood.config.digest and .key say nothing without plywood.config".into());
            }
            return None;
        };
        let request = ConfigRequest::parse(location, digest, key);
        if request.is_none() {
            let forms = "an absolute path, LABEL=, http://, https:// or inline:, and with it a digest and a key that fit";
            self.warnings.push(format!("plywood.config is malformed, ignored (expected {forms})"));
        }
        request
    }

    fn on_failure(&mut self) -> Option<FailureAction> {
        let ours = self.value("plywood.onfailure", parse_action);
        // dracut knows no plain root to fall back to.
        let dracuts = |text: &str| parse_action(text).filter(|action| *action != FailureAction::Base);
        ours.or_else(|| self.value("rd.emergency", dracuts))
    }

    fn log_level(&mut self) -> LevelFilter {
        let ours = self.value("plywood.log", |text| text.parse().ok());
        ours.unwrap_or_else(|| match self.value("loglevel", |text| text.parse::<u8>().ok()) {
            _ if self.line.last("debug").is_some_and(|p| p.value.is_none()) => LevelFilter::Debug,
            // The console shows what is more urgent than the kernel's level.
            Some(0..=4) => LevelFilter::Error,
            Some(5..=6) => LevelFilter::Warn,
            Some(7) => LevelFilter::Info,
            Some(8..) => LevelFilter::Debug,
            None if self.line.last("quiet").is_some() => LevelFilter::Warn,
            None => LevelFilter::Info,
        })
    }
}

/// Seconds, or a duration with units.
fn parse_seconds(text: &str) -> Option<Duration> {
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse().ok().map(Duration::from_secs),
        false => parse_duration(text).ok(),
    }
}

fn parse_absolute(text: &str) -> Option<PathBuf> {
    text.starts_with('/').then(|| text.into())
}

fn parse_action(text: &str) -> Option<FailureAction> {
    Some(match text {
        "base" => FailureAction::Base,
        "shell" => FailureAction::Shell,
        "reboot" => FailureAction::Reboot,
        "poweroff" => FailureAction::PowerOff,
        "halt" => FailureAction::Halt,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cmdline::ConfigLocation;
    use crate::oci::registries::Secret;

    fn boot(line: &str) -> BootParameters {
        BootParameters::new(&CommandLine::parse(line.as_bytes()))
    }

    #[test]
    fn without_parameters_the_boot_is_as_usual() {
        let parameters = boot("BOOT_IMAGE=/vmlinuz console=ttyS0 ip=dhcp rdinit=/bin/sh net.ifnames=0");
        assert!(parameters.enabled && !parameters.shell);
        assert_eq!(parameters.root_access, RootAccess::ReadOnly);
        assert_eq!((parameters.root, parameters.config, parameters.generation), (None, None, None));
        assert_eq!(parameters.log_level, LevelFilter::Info);
        assert_eq!(parameters.warnings, [""; 0]);
    }

    #[test]
    fn the_root_is_described_as_for_the_kernel() {
        let seconds = Duration::from_secs;
        let parameters = boot(
            "root=LABEL=a root=/dev/vda rootfstype=ext4,xfs rootflags=noatime rw ro rw rootdelay=2 init=/bin/x panic=-1 -- -s",
        );
        assert_eq!(parameters.root.as_deref(), Some("/dev/vda"));
        assert_eq!(parameters.root_type.as_deref(), Some("ext4,xfs"));
        assert_eq!(parameters.root_flags.as_deref(), Some("noatime"));
        assert_eq!(parameters.root_access, RootAccess::ReadWrite);
        assert_eq!((parameters.root_delay, parameters.panic), (seconds(2), Some(-1)));
        assert_eq!(parameters.init, Some("/bin/x".into()));
        for (line, expected) in [
            ("", RootWait::Usual),
            ("rootwait", RootWait::Forever),
            ("rootwait=5", RootWait::AtMost(seconds(5))),
            ("rootwait=2m", RootWait::AtMost(seconds(120))),
            ("rootwait=5 rootwait", RootWait::Forever),
            ("rootwait=soon", RootWait::Usual),
        ] {
            assert_eq!(boot(line).root_wait, expected, "{line}");
        }
    }

    #[test]
    fn a_configuration_is_found_where_it_is_said_to_be() {
        let label =
            |path: Option<&str>| ConfigLocation::Label { label: "X".into(), path: path.map(Into::into) };
        for (value, expected) in [
            ("/etc/x.yaml", Some(ConfigLocation::Path("/etc/x.yaml".into()))),
            ("LABEL=X", Some(label(None))),
            ("LABEL=X:/a/b.yaml", Some(label(Some("a/b.yaml")))),
            ("LABEL=X:a", Some(label(Some("a")))),
            ("inline:YTog", Some(ConfigLocation::Inline(Secret::new("a: ".into())))),
            ("inline:!", None),
            ("inline:/w==", None),
            ("LABEL=", None),
            ("LABEL=X:", None),
            ("LABEL=X:../a", None),
            ("x.yaml", None),
            ("ftp://h/x", None),
            ("https://user:hunter2@h/x", None),
            ("", None),
        ] {
            let parameters = boot(&format!("plywood.config={value}"));
            assert_eq!(parameters.warnings.is_empty(), expected.is_some(), "{value}");
            assert_eq!(parameters.config.map(|request| request.location), expected, "{value}");
        }
        assert!(!format!("{:?}", boot("plywood.config=inline:YTog")).contains("a: "));
    }

    #[test]
    fn failures_have_their_actions() {
        for (line, expected) in [
            ("", None),
            ("plywood.onfailure=base", Some(FailureAction::Base)),
            ("plywood.onfailure=shell", Some(FailureAction::Shell)),
            ("rd.emergency=reboot", Some(FailureAction::Reboot)),
            ("rd.emergency=halt plywood.onfailure=poweroff", Some(FailureAction::PowerOff)),
            ("plywood.onfailure=pray rd.emergency=halt", Some(FailureAction::Halt)),
            ("rd.emergency=base", None),
        ] {
            assert_eq!(boot(line).on_failure, expected, "{line}");
        }
    }

    #[test]
    fn the_most_particular_log_level_wins() {
        for (line, expected) in [
            ("quiet", LevelFilter::Warn),
            ("debug", LevelFilter::Debug),
            ("loglevel=3", LevelFilter::Error),
            ("loglevel=7", LevelFilter::Info),
            ("loglevel=8", LevelFilter::Debug),
            ("quiet debug", LevelFilter::Debug),
            ("quiet loglevel=6", LevelFilter::Warn),
            ("quiet plywood.log=trace", LevelFilter::Trace),
            ("loglevel=loud", LevelFilter::Info),
            ("debug=x", LevelFilter::Info),
        ] {
            assert_eq!(boot(line).log_level, expected, "{line}");
        }
    }

    #[test]
    fn plywood_can_be_reduced() {
        let parameters = boot("plywood=0 plywood.generation=7 plywood.skip=a,b plywood.skip=,c rd.shell=0");
        assert!(!parameters.enabled);
        assert_eq!(parameters.generation, Some(7));
        assert_eq!(parameters.skip, ["a", "b", "c"]);
        assert!(boot("plywood").enabled && boot("rd.shell").shell && !boot("rd.shell=perhaps").shell);
    }

    #[test]
    fn what_is_not_understood_is_a_warning() {
        for (line, expected) in [
            (
                "plywood.skp=a",
                "plywood.skp is not a parameter, expected one of plywood.config, plywood.config.digest, plywood.config.key, plywood.state, plywood.skip, plywood.generation, plywood.onfailure, plywood.log",
            ),
            ("plywood.generation=new", "plywood.generation=new is malformed, ignored"),
            ("plywood.generation=-1", "plywood.generation=-1 is malformed, ignored"),
            ("panic=x", "panic=x is malformed, ignored"),
            ("init=sh", "init=sh is malformed, ignored"),
            ("rd.timeout=\u{1b}[31m", "rd.timeout=\\x1b[31m is malformed, ignored"),
            ("plywood=perhaps", "plywood is neither on nor off, ignored"),
            ("plywood.log=loud", "plywood.log=loud is malformed, ignored"),
            (
                "plywood.config.digest=sha256:00",
                "plywood.config.digest and .key say nothing without plywood.config",
            ),
            (
                "plywood.config=/a plywood.config.digest=sha256:00",
                "plywood.config is malformed, ignored (expected an absolute path, LABEL=, http://, https:// or inline:, and with it a digest and a key that fit)",
            ),
            (
                "plywood.config=inline:aHVudGVyMg=",
                "plywood.config is malformed, ignored (expected an absolute path, LABEL=, http://, https:// or inline:, and with it a digest and a key that fit)",
            ),
        ] {
            assert_eq!(boot(line).warnings, [expected]);
        }
    }
}
