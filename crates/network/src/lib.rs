//! Network attachments of a sandbox.

