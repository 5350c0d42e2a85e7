/** What sandboxes can run in, for forms. */
export const DRIVERS = [
	{ value: 'auto', label: 'As the server has it', note: 'Usually a container' },
	{ value: 'container', label: 'Container', note: 'Starts in milliseconds, shares the host’s kernel' },
	{ value: 'vm', label: 'Virtual machine', note: 'A kernel of its own; needs a host that offers it' }
];
