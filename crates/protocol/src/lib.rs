//! What host and guest say to each other: ttrpc services, stream framing, version.

