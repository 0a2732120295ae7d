import { sessionFactory } from '../../graph-rewrite/cli/session.js';

/** Sessions of this package on one thread. */
export const createSession = await sessionFactory(1);
