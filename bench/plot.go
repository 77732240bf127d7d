package main

import (
	"fmt"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

const plotFile = "performance.svg"

// plot draws the ratios of reads per second as box plots over the rounds, with the target.
func (r *report) plot(file string) error {
	p := plot.New()
	p.BackgroundColor = color.White // dark pages show through otherwise
	p.Title.Text = "Reads per second, relative to the yardstick"
	p.Y.Label.Text = "ratio per round"
	var labels []string
	for i, c := range r.Comparisons {
		box, err := plotter.NewBoxPlot(vg.Points(30), float64(i), plotter.Values(c.ratio(reads).Rounds))
		if err != nil {
			return err
		}
		box.FillColor = color.RGBA{R: 0xcf, G: 0xe3, B: 0xf5, A: 0xff}
		p.Add(box)
		labels = append(labels, c.What)
	}
	p.NominalX(labels...)
	target := plotter.NewFunction(func(float64) float64 { return minReads })
	target.LineStyle = draw.LineStyle{Color: color.RGBA{R: 0xc0, A: 0xff}, Width: vg.Points(1), Dashes: []vg.Length{4, 4}}
	p.Add(target)
	p.Legend.Add(fmt.Sprintf("target: %.2f", minReads), target)
	p.Legend.Top = true
	p.X.Min, p.X.Max = -0.5, float64(len(labels))-0.5
	p.Y.Min, p.Y.Max = min(p.Y.Min, 0.95), max(p.Y.Max, 1.05)
	return p.Save(18*vg.Centimeter, 9*vg.Centimeter, file)
}
