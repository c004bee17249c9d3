//! OCI images: sources, verification, and the store of EROFS layers.

