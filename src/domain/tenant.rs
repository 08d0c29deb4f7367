//! Whose customers FlexPortal's are: what it acknowledged, and who a customer is, holds for one address and Business Unit.

/// A FlexPortal tenant, as links are tied to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant {
    /// Where the API answers, without a slash at the end; empty where no target is configured.
    pub base_url: String,
    /// The Business Unit.
    pub tenant_id: String,
}
