// What the roles of a team may do, in words.
import type { Role } from '$api/types';

export const ROLES: { value: Role; label: string; note: string }[] = [
	{ value: 'owner', label: 'Owner', note: 'Everything, and deleting the team' },
	{ value: 'admin', label: 'Admin', note: 'Members, hosts, keys, settings' },
	{ value: 'member', label: 'Member', note: 'Sandboxes and own keys' }
];

export const roleName = (role: Role) => ROLES.find(({ value }) => value === role)?.label ?? role;

/** Which roles somebody may give: nobody gives more than they have. */
export const rolesToGive = (mine: Role | undefined) =>
	mine === 'owner' ? ROLES : mine === 'admin' ? ROLES.filter(({ value }) => value !== 'owner') : [];
