// Routes that the dashboard is written against and that main doesn't have yet, and their shapes.
import type { Role } from './types';

export type PendingRoute = never;

export interface Allowance {
	used: number;
	limit?: number | null;
}

/** What of it is shown already: nothing that main can't do. */
export const LANDED: Record<'invitations' | 'keyScopes' | 'userLinks', boolean> = {
	invitations: true,
	keyScopes: true,
	userLinks: true
};
