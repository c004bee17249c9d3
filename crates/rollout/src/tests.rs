mod dice;
mod hostile;
mod long;
mod mco;
mod pods;
mod pools;
mod rules;
mod world;
