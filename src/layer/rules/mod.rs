//! What an extension may contain.

/// Whether something dangerous may be in an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Refuse,
    Allow,
}
