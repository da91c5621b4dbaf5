package main

import (
	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
)

type delOptions struct {
	key string
	delivery
}

func newDelCommand(a *app) *cobra.Command {
	var o delOptions
	cmd := &cobra.Command{
		Annotations: map[string]string{silentAnnotation: silentIfQuiet},

		Use:     "del STORAGE",
		GroupID: groupWrite,
		Short:   "Remove the value of a storage",
		Long:    `Append a DEL, which removes the value of a storage. Its history is kept.`,
		Example: `  rstream del alice/posts/1`,
		Args:    oneStorage,

		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := newDraft(args[0], event.Del, o.key)
			if err != nil {
				return err
			}
			return a.deliverOne(cmd.Context(), o.delivery, d)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&o.key, "key", "", "idempotency `KEY` of the append")
	o.delivery.addDeliveryFlags(cmd)
	return cmd
}
